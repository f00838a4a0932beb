"""What is in `deploy/`, read once for its tests."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
ALERTS: Final = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD: Final = DEPLOY / "grafana" / "drawdown.json"
RUNBOOK: Final = DEPLOY / "runbook"


@dataclass(frozen=True)
class Query:
    """A query, and whose it is."""

    place: str
    text: str


def alerts() -> list[dict[str, Any]]:
    """Every alert."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Every panel of the dashboard but the titles of rows."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    """Those of all alerts, panels and pages of the runbook."""
    found = [Query(f"alert {alert['alert']}", alert["expr"]) for alert in alerts()]
    for panel in panels():
        # Grafana fills this in from the width of the panel.
        texts = [target["expr"].replace("$__rate_interval", "5m") for target in panel["targets"]]
        found += [Query(f"panel {panel['title']}", text) for text in texts]
    for page in pages():
        for line in commands(page):
            found += [Query(f"page {page.stem}", text.strip()) for text in line.split(";") if is_query(text)]
    return found


def is_query(text: str) -> bool:
    """Whether a line of a page's commands is for Prometheus: the others begin with the name of a program."""
    return re.match(r"\s*(sum|max|min|histogram_quantile|increase|rate|process_\w+)\b", text) is not None


def pages() -> list[Path]:
    """The pages of alerts."""
    return [page for page in sorted(RUNBOOK.glob("*.md")) if page.stem != "README"]


def commands(page: Path) -> list[str]:
    """Lines of a page that are to be typed."""
    return [line.strip() for line in page.read_text().splitlines() if line.startswith("    ")]


def texts() -> list[Path]:
    """Every file of ours in `deploy/`."""
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=DEPLOY,
        check=True,
        capture_output=True,
        text=True,
    )
    return [DEPLOY / line for line in tracked.stdout.splitlines() if (DEPLOY / line).is_file()]
