"""The function library: its name follows its text."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from drawdown_server.holds.library import PARTS, build_library, read_sources
from drawdown_server.holds.model import CapMode, CapWindow, ExpiryAction, GrantSource, OveragePolicy

SETTLING = {"commit", "release", "extend_ttl", "refund", "sweep", "evict"}
READING = {"read_wallet", "read_hold", "read_caps", "list_holds"}
VERBS = SETTLING | READING | {"authorize", "extend", "bury", "charge", "load", "apply"}


def test_the_same_text_is_the_same_library() -> None:
    library = build_library()
    assert build_library() == build_library(read_sources()) == library
    assert library.name == f"drawdown{library.suffix}"
    assert library.code.startswith(f"#!lua name={library.name}\n")
    assert library.function("commit") == f"commit{library.suffix}".encode()
    assert re.fullmatch(r"\w+", library.name)  # what Redis allows


@pytest.mark.parametrize("part", PARTS)
def test_any_change_of_any_file_is_another_library(part: str) -> None:
    sources = read_sources()
    changed = build_library({**sources, part: sources[part] + " "})
    assert changed.suffix != build_library().suffix


def test_every_file_is_part_of_it() -> None:
    present = {file.name for file in (files("drawdown_server.holds") / "lua").iterdir() if file.name.endswith(".lua")}
    assert present == set(PARTS)


def test_settling_is_allowed_on_a_full_store_and_taking_is_not() -> None:
    registered = dict(re.findall(r"^register\('(\w+)', \{(.*?)\}\)", read_sources()["register.lua"], re.MULTILINE))
    assert registered.keys() == VERBS
    assert {verb for verb, flags in registered.items() if "allow-oom" in flags} == SETTLING
    assert {verb for verb, flags in registered.items() if "no-writes" in flags} == READING


@pytest.mark.parametrize("part", [part for part in PARTS if part not in {"verbs.lua", "register.lua"}])
def test_no_verb_writes_by_itself(part: str) -> None:
    """Writes are queued and performed by ``save``, after everything that can fail."""
    calls = re.findall(r"redis\.p?call\(\s*'(\w+)'", read_sources()[part])
    allowed = {"HGET", "HMGET", "HKEYS", "EXISTS", "ZCARD", "ZRANGE", "ZRANGEBYSCORE", "XINFO", "XLEN", "TIME"}
    if part == "sweep.lua":
        allowed |= {"ZREM"}  # of a wallet that is not here
    if part == "evict.lua":
        allowed |= {"DEL", "ZREM"}  # the last thing it does, and neither can fail
    assert set(calls) <= allowed


def test_every_word_that_is_kept_as_a_number_has_its_own() -> None:
    listed = re.search(r"^local WORDS = \{(.*?)^\}", read_sources()["store.lua"], re.MULTILINE | re.DOTALL)
    assert listed
    words = re.findall(r"'(\w+)'", listed[1])
    kept = [word for kind in (CapMode, CapWindow, ExpiryAction, GrantSource, OveragePolicy) for word in kind]
    assert sorted(words) == sorted(kept)
