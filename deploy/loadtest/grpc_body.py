"""Writes a request as the body of a gRPC call: five bytes of frame, then the message; what h2load sends with ``-d``.

    python grpc_body.py charge.json > charge.body

The file is JSON as grpcurl takes it, with the method beside it: ``{"method": "Charge", "request": {...}}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from drawdown.v1 import authorization_service_pb2, balance_service_pb2

SERVICES = (
    authorization_service_pb2.DESCRIPTOR.services_by_name["AuthorizationService"],
    balance_service_pb2.DESCRIPTOR.services_by_name["BalanceService"],
)
UNCOMPRESSED = b"\0"
LENGTH_BYTES = 4


def body(method: str, request: object) -> bytes:
    """The frame and the message.

    Raises:
        ValueError: There is no such method, or the request does not fit it.
    """
    found = next((service.methods_by_name[method] for service in SERVICES if method in service.methods_by_name), None)
    if found is None:
        raise ValueError(f"there is no method {method!r}")
    message = GetMessageClass(found.input_type)()
    try:
        data = json_format.ParseDict(request, message).SerializeToString()
    except json_format.ParseError as error:
        raise ValueError(f"{method}: {error}") from error
    return UNCOMPRESSED + len(data).to_bytes(LENGTH_BYTES, "big") + data


def main(path: Path) -> None:
    """Reads one file, writes to stdout."""
    document = json.loads(path.read_text(encoding="utf-8"))
    sys.stdout.buffer.write(body(document["method"], document["request"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
