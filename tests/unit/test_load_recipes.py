"""The recipes for other tools: they name methods, fields and values that the API has."""

from __future__ import annotations

import importlib.util
import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from google.protobuf import json_format, message_factory

from drawdown.v1 import authorization_service_pb2

if TYPE_CHECKING:
    from types import ModuleType

RECIPES = Path(__file__).parents[2] / "deploy" / "loadtest"
FRAME_BYTES = 5


def grpc_body() -> ModuleType:
    spec = importlib.util.spec_from_file_location("grpc_body", RECIPES / "grpc_body.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(RECIPES.glob("ghz-*.json")), ids=lambda path: path.name)
def test_what_ghz_sends_are_requests_with_ids_of_their_own(path: Path) -> None:
    config = json.loads(path.read_text())
    service, _, method = config["call"].rpartition("/")
    descriptor = authorization_service_pb2.DESCRIPTOR.services_by_name[service.rpartition(".")[2]]
    assert descriptor.full_name == service
    request_type = message_factory.GetMessageClass(descriptor.methods_by_name[method].input_type)
    assert (RECIPES.parents[1] / config["proto"]).exists()
    for template in config["data"]:
        text = json.dumps(template)
        assert "{{.UUID}}" in text
        request = json_format.Parse(text.replace("{{.UUID}}", str(uuid.uuid4())), request_type())
        assert [(amount.asset, amount.units > 0) for amount in request.amounts] == [("LOAD_TEST", True)]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("h2load-*.json")), ids=lambda path: path.name)
def test_what_h2load_sends_is_a_frame_with_a_request(path: Path) -> None:
    module = grpc_body()
    document = json.loads(path.read_text())
    frame = module.body(document["method"], document["request"])
    assert frame[:1] == b"\0"
    assert int.from_bytes(frame[1:FRAME_BYTES], "big") == len(frame) - FRAME_BYTES > 0
    method = next(
        s.methods_by_name[document["method"]] for s in module.SERVICES if document["method"] in s.methods_by_name
    )
    request = message_factory.GetMessageClass(method.input_type).FromString(frame[FRAME_BYTES:])
    assert json_format.MessageToDict(request, preserving_proto_field_name=True) == document["request"]


@pytest.mark.parametrize(
    ("method", "request_", "message"),
    [("Debit", {}, "no method 'Debit'"), ("Charge", {"wallet": "w"}, 'Charge: .*no field named "wallet"')],
)
def test_a_body_of_nonsense_is_refused(method: str, request_: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grpc_body().body(method, request_)
