"""House rules that a linter cannot say, each with its reason."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from drawdown_server.holds.library import PARTS

ROOT = Path(__file__).parent.parent
TRACKED = [
    ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    if (ROOT / line).is_file()
]
GENERATED = ROOT / "client/drawdown/v1"
OURS = [path for path in TRACKED if GENERATED not in path.parents]
PYTHON = [path for path in OURS if path.suffix == ".py"]
PRODUCT = [path for path in PYTHON if path.is_relative_to(ROOT / "client") or path.is_relative_to(ROOT / "server")]
LUA = [path for path in OURS if path.suffix == ".lua"]

FILE_LINES_MAX = 420
"""A longer file hides a noun that wants its own room."""
FUNCTION_LINES_MAX = 75
"""A longer function does more than one thing."""
LINE_CHARS_MAX = 120
LONG_FILES_ALLOWED = {
    "client/drawdown/_client.py": "one method per RPC, mostly docstrings; twins of _sync.py",
    "client/drawdown/_sync.py": "one method per RPC, mostly docstrings; twins of _client.py",
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*PRODUCT, *LUA], ids=name)
def test_files_are_short(path: Path) -> None:
    if name(path) not in LONG_FILES_ALLOWED:
        assert len(path.read_text().splitlines()) <= FILE_LINES_MAX


def test_functions_are_short() -> None:
    too_long = [
        f"{name(path)}:{node.lineno} {node.name}"
        for path in PRODUCT
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert too_long == []


def test_no_todo_without_an_issue_number() -> None:
    bare = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b(?!\(#\d+\))")
    found = [
        f"{name(path)}:{number}"
        for path in [*PYTHON, *LUA, *(p for p in OURS if p.suffix in {".proto", ".sql"})]
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("path", LUA, ids=name)
def test_lua_files_say_what_they_are(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"-- {path.name}: "), "the first line names the file and says what it does"


@pytest.mark.parametrize(
    "path",
    [p for p in LUA if p.name in {"authorize.lua", "commit.lua", "release.lua", "sweep.lua", "load.lua"}],
    ids=name,
)
def test_verbs_declare_their_contract(path: Path) -> None:
    header = path.read_text().split("\n\n", 1)[0]
    assert "-- ARGV" in header
    assert "-- Reply" in header


def test_every_lua_file_is_part_of_the_library() -> None:
    assert {path.name for path in LUA} == set(PARTS)


@pytest.mark.parametrize("path", LUA, ids=name)
def test_lua_lines_are_short_and_numbers_are_never_joined_to_keys(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert len(line) <= LINE_CHARS_MAX
        # Lua prints doubles with 14 digits: a joined number is a wrong number. tostring is only for error texts.
        assert "tostring(" not in line


def test_keys_are_built_in_one_place() -> None:
    for path in PRODUCT:
        if path.name != "keys.py":
            assert "{dd" not in path.read_text(), f"{name(path)} builds a key name"


def test_sql_is_in_files() -> None:
    statement = re.compile(r"^\s*(SELECT|INSERT|UPDATE|DELETE)\b.*\b(FROM|INTO|SET)\b", re.MULTILINE)
    for path in PRODUCT:
        assert not statement.search(path.read_text()), f"{name(path)} has SQL in it"


def test_the_client_needs_only_its_own_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=~ ]", dependency)[0] for dependency in project["dependencies"]}
    assert names == {"grpcio", "protobuf", "googleapis-common-protos"}


def test_client_and_server_are_no_packages_themselves() -> None:
    for folder in ("client", "server", "tests"):
        assert not (ROOT / folder / "__init__.py").exists(), (
            "`import client` must not work: it would collide with others"
        )


def test_no_machine_paths_and_no_registry_addresses() -> None:
    # Written so that this file does not contain what it looks for.
    forbidden = re.compile("/" + "work/|/" + "root/|pypi" + r"\.org|registry\.npm" + r"js|deb\.debian" + r"\.org")
    for path in OURS:
        if path.suffix in {".csv", ".png"}:
            continue
        match = forbidden.search(path.read_text(errors="replace"))
        assert match is None, f"{name(path)} names {match.group() if match else ''}"


@pytest.mark.parametrize("path", [p for p in OURS if p.suffix == ".md"], ids=name)
def test_links_between_our_pages_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{name(path)} links to {target}"


@pytest.mark.parametrize("path", [p for p in OURS if p.suffix == ".md"], ids=name)
def test_tests_that_our_pages_name_exist(path: Path) -> None:
    for file, test in re.findall(r"`([\w./]+\.py)::(\w+)", path.read_text()):
        found = next((place for place in (path.parent / file, ROOT / file) if place.exists()), None)
        assert found is not None, f"{name(path)} names {file}"
        assert re.search(rf"^(async )?def {test}\(", found.read_text(), re.MULTILINE), f"{name(path)} names {test}"


RULES = tomllib.loads((ROOT / "tests/rules.toml").read_text())["rule"]
RULES_MIN = 75
"""As many sentences as the rules had when they were written down; they do not become fewer by accident."""


def collected_in(path: Path) -> set[str]:
    """The names that pytest collects in a file: functions of the module."""
    tree = ast.parse(path.read_text())
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert len(functions) == len(set(functions)), f"{name(path)} defines a name twice: the first is never run"
    return {function for function in functions if function.startswith("test_")}


def test_every_rule_is_one_sentence_with_tests_that_exist() -> None:
    says = [rule["says"] for rule in RULES]
    assert len(says) == len(set(says)) >= RULES_MIN
    files = {file for rule in RULES for file, _, _ in (test.partition("::") for test in rule["tests"])}
    assert all(Path(file).name.startswith("test_") for file in files)
    found = {f"{file}::{test}" for file in files for test in collected_in(ROOT / "tests" / file)}
    for rule in RULES:
        assert rule["says"].endswith("."), rule["says"]
        assert rule["tests"], f"no test for: {rule['says']}"
        assert set(rule["tests"]) <= found, f"{rule['says']} {sorted(set(rule['tests']) - found)}"
