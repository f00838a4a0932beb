"""Holds both stores against what was acknowledged, once everything has come to rest.

It reads past the servers and past their lines. What the gateways were told is added up here and nowhere else.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import drawdown
from integration.audit import open_audit
from integration.server import until
from simulation.soak.traffic import Caller

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from drawdown_server.ledger.rows import EntryRow
    from integration.audit import Audit
    from simulation.soak.books import Books, KnownGrant, KnownHold, WalletAsset
    from simulation.soak.stack import Stack

LEAK_GRACE_S: Final = 5.0
"""A hold is freed within this after its ttl, once servers serve."""
DRAIN_S: Final = 60.0
CALM_S: Final = 15.0
"""Longer than any grant lives that expires."""
SIGNS: Final = {"GRANT": 1, "EXPIRE": -1, "VOID": -1}
"""Of the lines whose units no gateway is told; each is checked on its own."""


async def differences(stack: Stack, ttl_s: float) -> list[str]:
    """Everything that is not as it was told; empty when every unit is accounted for.

    Args:
        stack: With every process up and nothing in flight.
        ttl_s: Of the holds that nobody settled.
    """
    books = stack.books
    found = list(books.wrong)
    async with open_audit(stack.config) as audit:
        found += await leaked_holds(stack, ttl_s)
        await drained(stack, audit)
        entries = {wallet: await audit.entries(wallet) for wallet in books.wallets}
        found += check_holds(books, entries)
        found += check_grants(books, entries)
        found += await check_balances(stack, audit)
        try:
            await audit.assert_conserved(*books.wallets)  # reconcile among others
        except AssertionError as error:
            found.append(f"not conserved: {error}")
        found += [f"dead letter: {letter}" for letter in await audit.stores.ledger.list_dead_letters(limit=20)]
    return found


async def leaked_holds(stack: Stack, ttl_s: float) -> list[str]:
    """Holds that are open although everybody has settled, or was forgotten for longer than its ttl."""
    open_holds: Counter[str] = Counter()

    async def none_open() -> bool:
        open_holds.clear()
        for wallet_id in stack.books.wallets:
            balance = await balance_of(stack, wallet_id)
            open_holds[wallet_id] = balance.open_holds
        return not open_holds.total()

    try:
        await until(none_open, timeout_s=ttl_s + LEAK_GRACE_S)
    except TimeoutError:
        return [f"wallet {wallet_id}: {count} holds leaked" for wallet_id, count in open_holds.items() if count]
    return []


async def balance_of(stack: Stack, wallet_id: str) -> drawdown.WalletBalance:
    """What a server answers; a client may still have to find out that its server is back."""
    caller = Caller(stack.clients, stack.books, random.Random(0))  # noqa: S311 - any server will do
    return await caller.answer("auditor's GetBalance", partial(drawdown.AsyncClient.get_balance, wallet_id=wallet_id))


async def drained(stack: Stack, audit: Audit) -> None:
    """Wait until Postgres has recorded what Valkey has."""

    async def recorded() -> bool:
        for wallet_id in stack.books.wallets:
            live = await balance_of(stack, wallet_id)
            row = await audit.stores.ledger.get_wallet(stack.config.tenant, wallet_id)
            if row is None or row.sequence < live.wallet_sequence:
                return False
        return True

    await until(recorded, timeout_s=DRAIN_S)


def check_holds(books: Books, entries: dict[str, list[EntryRow]]) -> Iterator[str]:
    """Every acknowledged debit and refund is in the ledger once, and no others are."""
    debited: dict[str, Counter[str]] = defaultdict(Counter)
    refunded: dict[str, Counter[str]] = defaultdict(Counter)
    sequences: dict[str, set[int]] = defaultdict(set)
    wallets: dict[str, str] = {}
    for wallet_id, lines in entries.items():
        for line in lines:
            if line.kind in ("DEBIT", "REFUND"):
                (debited if line.kind == "DEBIT" else refunded)[line.hold_id][line.asset] += line.units
                sequences[line.hold_id].add(line.wallet_sequence)
                wallets[line.hold_id] = wallet_id
    for hold_id in wallets.keys() - books.holds.keys():
        yield f"hold {hold_id}: {dict(debited[hold_id])} debited, and no answer ever approved it"
    for hold_id, known in books.holds.items():
        if not known.is_settled:
            yield f"hold {hold_id}: never came to an end"
        if wallets.get(hold_id, known.wallet_id) != known.wallet_id:
            yield f"hold {hold_id}: of {known.wallet_id}, debited from {wallets[hold_id]}"
        yield from _check_hold(hold_id, known, dict(debited[hold_id]), dict(refunded[hold_id]), sequences[hold_id])


def _check_hold(
    hold_id: str, known: KnownHold, debited: dict[str, int], refunded: dict[str, int], sequences: set[int]
) -> Iterator[str]:
    if debited != known.debited:
        yield f"hold {hold_id}: {known.debited} debited as acknowledged, {debited} in the ledger"
    if refunded != known.refunded:
        yield f"hold {hold_id}: {known.refunded} refunded as acknowledged, {refunded} in the ledger"
    if known.sequences and sequences and not sequences <= known.sequences:
        yield f"hold {hold_id}: acknowledged as events {sorted(known.sequences)}, in the ledger as {sorted(sequences)}"


def check_grants(books: Books, entries: dict[str, list[EntryRow]]) -> Iterator[str]:
    """Every acknowledged grant is there once; only what may expire expires, only what an operator voided is void."""
    in_ledger: dict[tuple[str, str], list[int]] = defaultdict(list)
    for wallet_id, lines in entries.items():
        for line in lines:
            known = books.grants.get((wallet_id, line.grant_id))
            if line.kind == "GRANT":
                in_ledger[wallet_id, line.grant_id].append(line.units)
                if known is None:
                    yield f"grant {wallet_id} {line.grant_id}: in the ledger, and nobody made it"
            elif line.kind == "EXPIRE" and (known is None or known.expire_time is None):
                yield f"grant {wallet_id} {line.grant_id}: expired, and never was to"
            elif line.kind == "VOID" and (known is None or not known.may_be_void):
                yield f"grant {wallet_id} {line.grant_id}: void, and nobody voided it"
    for key, known in books.grants.items():
        yield from _check_grant(key, known, in_ledger[key])


def _check_grant(key: tuple[str, str], known: KnownGrant, units: list[int]) -> Iterator[str]:
    if units == [known.units] or (not units and not known.is_certain):
        return
    yield f"grant {key[0]} {key[1]}: {known.units} acknowledged, {units} in the ledger"


async def check_balances(stack: Stack, audit: Audit) -> list[str]:
    """What was granted and refunded less what was debited, expired and voided is what is settled.

    A grant that expires in this moment is in one of the two stores first: what differs is looked at again.
    """
    found: list[str] = []

    async def is_right() -> bool:
        entries = {wallet: await audit.entries(wallet) for wallet in stack.books.wallets}
        found[:] = [difference async for difference in _wrong_balances(stack, entries)]
        return not found

    with suppress(TimeoutError):
        await until(is_right, timeout_s=CALM_S)
    return found


async def _wrong_balances(stack: Stack, entries: dict[str, list[EntryRow]]) -> AsyncIterator[str]:
    books = stack.books
    expected: Counter[WalletAsset] = Counter()
    for known in books.holds.values():
        expected.subtract({(known.wallet_id, asset): units for asset, units in known.debited.items()})
        expected.update({(known.wallet_id, asset): units for asset, units in known.refunded.items()})
    for wallet_id, lines in entries.items():
        for line in lines:
            expected[wallet_id, line.asset] += SIGNS.get(line.kind, 0) * line.units
    for wallet_id in books.wallets:
        reading = await balance_of(stack, wallet_id)
        for asset, balance in reading.balances.items():
            if balance.settled_units != expected[wallet_id, asset]:
                told = f"{expected[wallet_id, asset]} as acknowledged, {balance.settled_units} settled"
                yield f"wallet {wallet_id} {asset}: {told}"
            if balance.held_units:
                yield f"wallet {wallet_id} {asset}: {balance.held_units} held by nobody"
