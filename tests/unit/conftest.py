"""The command line against a server of canned answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from drawdown.cli import app
from drawdown.v1 import asset_service_pb2, types_pb2
from fake_drawdown import FakeDrawdown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

SCALES = {"USD": 6, "MODEL_TOKENS": 0, "IMAGE_CREDIT": 0}
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def get_asset(request: Any) -> Message:  # noqa: ANN401
    return asset_service_pb2.GetAssetResponse(
        asset=types_pb2.Asset(asset=request.asset, scale=SCALES[request.asset], create_time=CREATED)
    )


@pytest.fixture
def fake() -> Iterator[FakeDrawdown]:
    with FakeDrawdown() as server:
        server.answer("GetAsset", get_asset)
        yield server


@dataclass(frozen=True)
class Run:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401
        return json.loads(self.out)


@pytest.fixture
def run(fake: FakeDrawdown) -> Any:  # noqa: ANN401
    """Runs one command: ``run("wallet", "get", "demo")``."""

    def invoke(*words: str) -> Run:
        result = CliRunner().invoke(app, ["--target", fake.target, *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Run(result.exit_code, result.stdout, result.stderr)

    return invoke
