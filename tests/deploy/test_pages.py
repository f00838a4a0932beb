"""The runbook, and every setting, command, flag and log line that anything in `deploy/` names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import typer

import drawdown_server
from deploy.files import DEPLOY, alerts, commands, pages, texts
from drawdown.cli import app as client_commands
from drawdown_server.__main__ import commands as server_commands
from drawdown_server.commands.check_config import OF_CLIENTS, OF_SERVERS
from drawdown_server.config import Config

if TYPE_CHECKING:
    import click

SERVER: Final = Path(drawdown_server.__file__).parent
HEADINGS: Final = ["**What it means.**", "**How to see it.**", "**What to do.**"]
NO_LOG_LINES: Final = {"dead_letters", "wallet_changes", "committed_late", "expiry_action"}
"""Words of pages that look like one: tables, fields, outcomes."""
PROGRAMS: Final = {
    "drawdown-server": typer.main.get_command(server_commands),
    "drawdown": typer.main.get_command(client_commands),
}


def name(path: Path) -> str:
    return str(path.relative_to(DEPLOY))


def test_each_alert_has_its_page_and_each_page_its_alert() -> None:
    assert {page.stem for page in pages()} == {alert["alert"] for alert in alerts()}


@pytest.mark.parametrize("page", pages(), ids=name)
def test_a_page_says_what_it_means_how_to_see_it_and_what_to_do(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.stem}\n")
    places = [text.find(heading) for heading in HEADINGS]
    assert -1 not in places
    assert places == sorted(places)
    assert commands(page), "nothing to type"


@pytest.mark.parametrize("path", texts(), ids=name)
def test_every_setting_that_is_named_is_one(path: Path) -> None:
    named = set(re.findall(r"DRAWDOWN_[A-Z0-9_]*[A-Z0-9]", path.read_text()))
    assert named - OF_SERVERS - OF_CLIENTS == set()


def test_variables_of_clients_are_those_that_their_command_line_reads() -> None:
    options = PROGRAMS["drawdown"].params
    assert {option.envvar for option in options if option.envvar} == OF_CLIENTS


def command_of(words: list[str]) -> click.Command:
    """The command that some words name, in groups of groups."""
    found = PROGRAMS[words[0]]
    for word in words[1:]:
        if not hasattr(found, "commands"):
            break
        assert word in found.commands, " ".join(words)
        found = found.commands[word]
    assert not hasattr(found, "commands"), " ".join(words)
    return found


@pytest.mark.parametrize("path", [path for path in texts() if path.suffix == ".md"], ids=name)
def test_every_command_that_is_named_exists_with_its_flags(path: Path) -> None:
    typed = [line.strip() for line in path.read_text().splitlines() if line.startswith("    ")]
    quoted = re.findall(r"`(drawdown(?:-server)? [^`]+)`", path.read_text().replace("\n", " "))
    for text in (*typed, *quoted):
        for typed_command in re.findall(r"(?<!exec )(?<!/)\b(drawdown(?:-server)? [a-z][^;|>#]*)", text):
            words = typed_command.split()
            options = {option for parameter in command_of(words).params for option in parameter.opts} | {"--help"}
            if words[0] == "drawdown-server":
                options |= {f"--{field.replace('_', '-')}" for field in Config.model_fields}
            assert {word for word in words if word.startswith("--")} <= options, typed_command


def test_logs_of_pods_that_a_label_selects_are_asked_for_whole() -> None:
    """kubectl shows their last ten lines otherwise, whatever ``--since`` says."""
    selected = [line for page in pages() for line in commands(page) if "kubectl logs -l" in line]
    assert selected
    assert [line for line in selected if "--tail" not in line] == []


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_log_line_that_is_named_is_written(page: Path) -> None:
    written = {*"\n".join(file.read_text() for file in SERVER.rglob("*.py")).split('"')}
    named = re.findall(r"(?:`|-e )([a-z]+[._][a-z_]+)(?=[` \n])", page.read_text())
    assert set(named) - written - NO_LOG_LINES == set()
