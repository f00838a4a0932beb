"""Alerts and dashboard: every query is one, names only what servers say, and fires when it must."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from deploy.files import ALERTS, DEPLOY, Query, alerts, panels, queries
from drawdown_server.dev.process import free_port
from drawdown_server.errors import ErrorReason
from drawdown_server.telemetry.instruments import Kind
from drawdown_server.telemetry.metrics import Metrics
from drawdown_server.telemetry.prometheus import prometheus_name
from integration.credentials import PEPPER
from integration.server import run_server, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

OF_PROMETHEUS: Final = {"job", "instance"}
"""Labels that a scrape adds."""
PROCESS: Final = {
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
}
SILENT: Final = {
    "drawdown_outbox_units": "nothing waits for the ledger",
    "drawdown_calls_abandoned_total": "nobody gave up",
    "drawdown_scripts_abandoned_total": "nobody gave up",
    "drawdown_calls_refused_total": "there was room for all",
    "drawdown_tls_certificate_expire_time_seconds": "calls come in plain text",
    "drawdown_tls_reloads_total": "calls come in plain text",
}
"""Metrics that a quiet server without TLS does not show."""
GET_TIMEOUT_S: Final = 10.0
PROMTOOL: Final = "promtool"
PROMTOOL_MISSING: Final = f"{PROMTOOL} is not installed (Debian: apt-get install prometheus)"


def labels_of_metrics() -> dict[str, set[str]]:
    """Every name that a scrape may have, with its labels."""
    found: dict[str, set[str]] = {"up": set(), **{name: set() for name in PROCESS}}
    for definition in Metrics().registry.definitions:
        labels = {attribute.replace(".", "_") for attribute in definition.attributes}
        name = prometheus_name(definition)
        if definition.kind is Kind.HISTOGRAM:
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_count": labels, f"{name}_sum": labels}
        else:
            found[name] = labels
    return found


def parts(node: Any) -> Iterator[Any]:  # noqa: ANN401 - the parser's nodes have no common type
    """A query's syntax tree, node by node."""
    yield node
    for name in ("expr", "lhs", "rhs", "param"):
        child = getattr(node, name, None)
        if child is not None:
            yield from parts(child)
    if isinstance(node, promql_parser.MatrixSelector):
        yield from parts(node.vector_selector)
    for argument in node.args if isinstance(node, promql_parser.Call) else ():
        yield from parts(argument)


def selectors(text: str) -> list[Any]:
    """What a query reads."""
    return [node for node in parts(promql_parser.parse(text)) if isinstance(node, promql_parser.VectorSelector)]


def place(query: Query) -> str:
    return query.place


@pytest.mark.parametrize("query", queries(), ids=place)
def test_a_query_names_only_metrics_and_labels_that_there_are(query: Query) -> None:
    known = labels_of_metrics()
    read = selectors(query.text)
    assert read
    allowed: set[str] = set()
    for selector in read:
        assert selector.name in known, selector.name
        own = known[selector.name] | OF_PROMETHEUS
        allowed |= own
        assert {matcher.name for matcher in selector.matchers.matchers} <= own
    for node in parts(promql_parser.parse(query.text)):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= allowed


def test_every_metric_is_on_the_dashboard() -> None:
    texts = [query.text for query in queries() if query.place.startswith("panel ")]
    shown = {selector.name for text in texts for selector in selectors(text)}
    families = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in shown}
    assert {prometheus_name(definition) for definition in Metrics().registry.definitions} <= families


def test_what_queries_read_is_what_a_server_says(valkey_url: str, postgres_url: str) -> None:
    """Its names, its labels, and the values that queries ask for."""
    port = free_port()

    async def scrape() -> str:
        async with run_server(settings(valkey_url, postgres_url, admin_port=port, api_key_pepper=PEPPER)) as server:
            wallet = await server.wallet(USD=100)
            await server.authorize(wallet, "h", USD=60)
            await server.authorize(wallet, "poor", USD=60)
            await server.commit(wallet, "h", USD=50)
            await server.commit(wallet, "h", USD=50)
            await server.debits(wallet, at_least=1)
            await server.assert_conserved(wallet)
            return await asyncio.to_thread(get, port)

    said: dict[str, dict[str, set[str]]] = {"up": {}} | {name: {} for name in SILENT}
    for family in text_string_to_metric_families(asyncio.run(scrape())):
        for sample in family.samples:
            for label, value in {"": "", **sample.labels}.items():
                said.setdefault(sample.name, {}).setdefault(label, set()).add(value)
    for query in queries():
        for selector in selectors(query.text):
            assert selector.name in said, query
            for matcher in selector.matchers.matchers:
                wanted = set(matcher.value.split("|")) - {""}
                assert wanted <= values(matcher.name) | said[selector.name].get(matcher.name, set()), query


def values(label: str) -> set[str]:
    """What a label may say, whether or not a server has said it."""
    if label == "job":
        scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())["scrape_configs"]
        return {job["job_name"] for job in scraped}
    return {
        "reason": {reason.name for reason in ErrorReason},
        "outcome": {"taken", "refused"},
    }.get(label, set())


def get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=GET_TIMEOUT_S) as answer:
        body: bytes = answer.read()
    return body.decode()


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_how_urgent_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert set(alert) <= {"alert", "expr", "for", "labels", "annotations"}
    assert alert["labels"]["severity"] in {"page", "ticket"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"deploy/runbook/{alert['alert']}.md"
    assert alert["annotations"]["description"].endswith(".")


def test_panels_have_a_unit_and_a_sentence_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        box = panel["gridPos"]
        assert box["x"] + box["w"] <= 24
        cells = {(box["x"] + x, box["y"] + y) for x in range(box["w"]) for y in range(box["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))


def test_alerts_fire_when_they_must_and_on_no_healthy_installation() -> None:
    promtool = shutil.which(PROMTOOL)
    if promtool is None:
        pytest.skip(PROMTOOL_MISSING)
    rules = Path(__file__).with_name("prometheus_rules.yaml")
    for arguments in (
        ["check", "rules", ALERTS],
        ["check", "config", DEPLOY / "prometheus" / "prometheus.yaml"],
        ["test", "rules", rules],
    ):
        done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_made_to_fire() -> None:
    """In the file that promtool runs, whether or not it is installed here."""
    text = Path(__file__).with_name("prometheus_rules.yaml").read_text()
    assert {alert["alert"] for alert in alerts() if f'alertname="{alert["alert"]}"' not in text} == set()
