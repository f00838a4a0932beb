"""What people and programs read: tables, lines and JSON.

JSON is stable: the fields are those of the API, units are integers, and beside each stands the exact decimal as text
(``available_units`` and ``available``; ``units`` and ``amount``). Enums are names, times are RFC 3339 in UTC.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from rich.console import Console
from rich.table import Table

from drawdown import Balance, format_units

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Item = TypeVar("Item")
Json: TypeAlias = "str | int | bool | list[Json] | dict[str, Json] | None"

WIDTH_MAX: Final = 10_000
"""Columns that a table may take. Beyond any terminal: an id that is cut cannot be copied, a long line only wraps."""

_SPANS: Final = (
    ("year", 365 * 86_400, 2),
    ("day", 86_400, 2),
    ("hour", 3_600, 2),
    ("minute", 60, 2),
    ("second", 1, 1),
)
"""Name, seconds, and from how many of them on a time is told in it: 36 hours say more than 1 day."""

_BY_ASSET: Final = frozenset({"amounts", "balances"})
"""Fields that map an asset to an object which names it too: lists in JSON."""

_UNITS_BY_ASSET: Final = frozenset({"debited", "released", "uncollected"})
"""Fields that map an asset to units: lists of amounts in JSON."""


class Output:
    """Writes results to stdout.

    Args:
        scale: Decimal places of an asset, None when unknown: its units are then shown as units.
        as_json: JSON instead of text.
    """

    def __init__(self, *, scale: Callable[[str], int | None], as_json: bool) -> None:
        self._scale = scale
        self.as_json = as_json
        # No markup, no emoji: what customers put into names and labels is text and nothing else.
        self._console = Console(width=WIDTH_MAX, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def decimal(self, units: int, asset: str) -> str:
        """``12.50``; ``12500000u`` when the asset is unknown. Both can be typed in again."""
        scale = self._scale(asset)
        return f"{units}u" if scale is None else format_units(units, scale)

    def amount(self, units: int, asset: str) -> str:
        """``12.50 USD``."""
        return f"{self.decimal(units, asset)} {asset}"

    def amounts(self, units_by_asset: Mapping[str, int]) -> str:
        """``0.50 USD, 1000 MODEL_TOKENS``."""
        return ", ".join(self.amount(units, asset) for asset, units in units_by_asset.items()) or "-"

    def command(self, words: Sequence[str], units_by_asset: Mapping[str, int]) -> str:
        """A command line to paste: ``drawdown commit demo req_1 '0.50 USD'``."""
        return shlex.join([*words, *(self.amount(units, asset) for asset, units in units_by_asset.items())])

    def json(self, value: DataclassInstance, **more: Json) -> None:
        """Writes one object as JSON; ``more`` comes first."""
        self._write_json({**more, **self._object(value, "")})

    def json_list(self, name: str, items: Iterable[DataclassInstance], *, more: bool) -> None:
        """Writes a list as JSON; ``more`` says whether the limit cut it."""
        self._write_json({name: [self._object(item, "") for item in items], "more": more})

    def as_document(self, value: DataclassInstance) -> dict[str, Json]:
        """One object as JSON."""
        return self._object(value, "")

    def json_document(self, document: dict[str, Json]) -> None:
        """Writes JSON that is put together from several objects."""
        self._write_json(document)

    def line(self, text: str = "") -> None:
        """Writes one line of text."""
        self._console.print(printable(text))

    def facts(self, facts: Mapping[str, str]) -> None:
        """Writes names and values, one pair per line."""
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="dim")
        table.add_column()
        for name, value in facts.items():
            table.add_row(name, printable(value))
        self._print(table)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Writes rows under their columns, or that there are none; a column name with > is aligned to the right."""
        rows = list(rows)
        if not rows:
            self.line("none")
            return
        table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
        for column in columns:
            table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(printable(cell) for cell in row))
        self._print(table)

    def cut(self, limit: int, *, more: bool) -> None:
        """Says on stderr when a list was cut."""
        if more:
            sys.stderr.write(f"the first {limit}; --limit shows more\n")

    def balances(self, balances: Iterable[Balance]) -> None:
        """Writes balances as a table."""
        self.table(
            ["ASSET", ">AVAILABLE", ">HELD", ">SETTLED", ">DEBT", ">OVERDRAFT LIMIT"],
            (
                [
                    balance.asset,
                    self.decimal(balance.available_units, balance.asset),
                    self.decimal(balance.held_units, balance.asset),
                    self.decimal(balance.settled_units, balance.asset),
                    self.decimal(balance.debt_units, balance.asset),
                    self.decimal(balance.overdraft_limit_units, balance.asset),
                ]
                for balance in balances
            ),
        )

    def _print(self, table: Table) -> None:
        with self._console.capture() as capture:
            self._console.print(table)
        # rich fills every cell to its column's width; the spaces at the ends of lines are noise in a pipe.
        lines = [line.rstrip() for line in capture.get().splitlines()]
        sys.stdout.write("".join(f"{line}\n" for line in lines))

    def _write_json(self, document: dict[str, Json]) -> None:
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def _object(self, value: DataclassInstance, asset: str) -> dict[str, Json]:
        asset = str(getattr(value, "asset", asset))
        document: dict[str, Json] = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            document[field.name] = self._value(field.name, item, asset)
            if isinstance(item, int) and field.name.endswith("units"):
                document[field.name.removesuffix("units").rstrip("_") or "amount"] = self._exact(item, asset)
        return document

    def _value(self, name: str, value: object, asset: str) -> Json:
        if name in _BY_ASSET and isinstance(value, Mapping):
            return [self._value("", item, asset) for item in value.values()]
        if name in _UNITS_BY_ASSET and isinstance(value, Mapping):
            return [{"asset": key, "units": units, "amount": self._exact(units, key)} for key, units in value.items()]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._object(value, asset)
        if isinstance(value, Mapping):
            return {str(key): self._value("", item, asset) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [self._value("", item, asset) for item in value]
        return _scalar(value)

    def _exact(self, units: int, asset: str) -> str | None:
        """The decimal as text; None when nobody knows the asset's scale."""
        scale = self._scale(asset) if asset else None
        return None if scale is None else format_units(units, scale)


def _scalar(value: object) -> Json:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value)  # text and the names of enums


def time(value: datetime | None) -> str:
    """A time as people read it, to the second."""
    return "-" if value is None else value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def in_words(value: datetime | None, now: datetime) -> str:
    """How far away a time is, as people say it: ``in 12 days``, ``3 hours ago``; ``never`` for none."""
    if value is None:
        return "never"
    seconds = (value - now).total_seconds()
    # Rounded: what was said to expire in 12 days does so "in 12 days" a moment later, too.
    amount, name = next(
        ((round(abs(seconds) / size), name) for name, size, least in _SPANS if abs(seconds) >= least * size),
        (0, "second"),
    )
    if amount == 0:
        return "now"
    span = f"{amount} {name}{'' if amount == 1 else 's'}"
    return f"in {span}" if seconds > 0 else f"{span} ago"


def labels(value: Mapping[str, str]) -> str:
    """``team=search env=prod``."""
    return " ".join(f"{key}={item}" for key, item in value.items()) or "-"


def printable(text: str) -> str:
    """Text without control characters: a name must not be able to drive the terminal."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)


def first(items: Iterable[Item], limit: int) -> tuple[list[Item], bool]:
    """The first ``limit`` items, and whether there are more."""
    taken = list(islice(items, limit + 1))
    return taken[:limit], len(taken) > limit
