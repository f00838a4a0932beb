"""The page about the metrics, and what the server really has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from drawdown_server.telemetry.metrics import Metrics
from drawdown_server.telemetry.prometheus import prometheus_name

if TYPE_CHECKING:
    from drawdown_server.telemetry.instruments import Definition

PAGE = Path(__file__).parents[2] / "deploy" / "METRICS.md"


def row(definition: Definition) -> str:
    """A metric as the page shows it."""
    attributes = ", ".join(f"`{attribute}`" for attribute in definition.attributes) or "-"
    cells = (
        f"`{definition.name}`",
        f"`{prometheus_name(definition)}`",
        definition.kind,
        definition.unit,
        attributes,
        definition.description,
    )
    return f"| {' | '.join(cells)} |"


def test_the_page_has_every_metric_and_no_other() -> None:
    shown = [line for line in PAGE.read_text().splitlines() if re.match(r"\| `(drawdown|rpc)\.", line)]
    expected = [row(definition) for definition in Metrics().registry.definitions]
    assert shown == expected, "\n".join(["the table should be:", *expected])


def test_every_name_on_the_page_is_a_metric() -> None:
    """Advice and alerts on the page use names of the table."""
    known = {prometheus_name(definition) for definition in Metrics().registry.definitions}
    suffixes = re.compile(r"_(bucket|sum|count)$")
    named = set(re.findall(r"\b(?:drawdown|rpc)_[a-z_]+\b", PAGE.read_text())) - {"drawdown_server"}
    attributes = {a.replace(".", "_") for d in Metrics().registry.definitions for a in d.attributes}
    assert {name for name in named - attributes if suffixes.sub("", name) not in known} == set()


def test_names_follow_the_conventions() -> None:
    for definition in Metrics().registry.definitions:
        assert re.fullmatch(r"(drawdown|rpc\.server)(\.[a-z_]+)+", definition.name), definition.name
        assert re.fullmatch(r"s|\{[a-z]+\}", definition.unit), definition.unit
        assert definition.description.endswith("."), definition.name
        assert not {"tenant", "wallet", "wallet_id", "hold_id"} & set(definition.attributes), (
            "their number has no limit"
        )
        assert list(definition.bounds) == sorted(set(definition.bounds))
