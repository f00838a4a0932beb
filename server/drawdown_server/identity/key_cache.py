"""The keys that are in use, in memory: who calls is known without a query, and what changes is known within seconds.

A key that nobody used in this process yet is looked up once. From then on ``run`` asks Postgres every second which of
the known ones have changed, so a revocation counts everywhere within ``REFRESH_INTERVAL_S`` and the time of one query.
Time is Postgres' own, as of the last answer: no clock of a server's host decides when a key ends.

While Postgres is away, known keys go on, because the calls of the data plane do: nobody can revoke one meanwhile. A
server that alone has lost Postgres hears of no revocation, which is why it stops to believe what it knows after
``stale_max_s``. Keys that are not known are then neither let in nor called wrong: UNAVAILABLE.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from drawdown_server import clock
from drawdown_server.errors import StoreUnavailableError
from drawdown_server.identity.api_keys import secret_id_of
from drawdown_server.identity.caller import Caller
from drawdown_server.identity.refusals import unauthenticated
from drawdown_server.signals import stopped

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from drawdown_server.identity.api_keys import Peppers, SecretRecord

log = structlog.get_logger(__name__)

REFRESH_INTERVAL_S: Final = 1.0
"""A revocation is to count within 5 s everywhere; the query that asks reads one index entry per known key."""
KNOWN_MAX: Final = 10_000
"""Keys remembered; past this all are forgotten, which costs one look each on their next use."""
UNKNOWN_TTL_S: Final = 2.0
"""How long a key is remembered as unknown: one that is used right before it is made works a moment later."""
UNKNOWN_MAX: Final = 10_000
"""Unknown keys remembered; past this all are forgotten."""
LOOK_UPS_MAX: Final = 1_000
"""Unknown keys that may wait for Postgres, which is asked for many at once; more are guesses, and get UNAVAILABLE."""


class KeyReader(Protocol):
    """What Postgres is asked."""

    async def read_secret(self, secret_id: str) -> SecretRecord | None:
        """One secret, ended ones too; None if there never was one."""

    async def read_changed_secrets(self, known: Mapping[str, int]) -> tuple[int, dict[str, SecretRecord | None]]:
        """Postgres' time in milliseconds, and those of the known secrets whose key has another revision."""


class _Known:
    """A secret that exists."""

    __slots__ = ("caller", "end_s", "record")

    def __init__(self, record: SecretRecord, end_s: float) -> None:
        self.record = record
        self.end_s = end_s
        self.caller = Caller(record.tenant_id, f"key:{record.key_id}", record.scopes)


class KeyCache:
    """Whose key it is.

    Args:
        reader: Postgres.
        peppers: For the digests.
        stale_max_s: How long known keys are believed without Postgres.
    """

    def __init__(self, reader: KeyReader, peppers: Peppers, *, stale_max_s: float) -> None:
        self._reader = reader
        self._peppers = peppers
        self._stale_max_s = stale_max_s
        self._known: dict[str, _Known] = {}
        self._by_text: dict[str, _Known] = {}
        """Texts that were found to be right, so that the next call costs no HMAC."""
        self._unknown_until_s: dict[str, float] = {}
        self._looking_up = 0
        self.found_total = 0
        """Keys that were looked up and found; ended ones too."""
        self.unknown_total = 0
        """Keys that were looked up and never existed: guesses, or those of another installation."""
        self._read_s = -math.inf
        """When Postgres was last asked with success."""
        self._read_ms = 0
        """Postgres' time then."""

    def now_ms(self) -> int:
        """Postgres' time, as of its last answer."""
        return self._read_ms + int((clock.monotonic_s() - self._read_s) * 1000)

    @property
    def age_s(self) -> float:
        """Since Postgres last said what has changed."""
        return clock.monotonic_s() - self._read_s

    def peek(self, text: str) -> Caller | None:
        """The caller of a key that was right before and still is; None says nothing."""
        known = self._by_text.get(text)
        if known is None:
            return None
        now_s = clock.monotonic_s()
        return known.caller if now_s < known.end_s and now_s < self._read_s + self._stale_max_s else None

    async def find(self, text: str) -> Caller:
        """The caller of a key.

        Raises:
            DrawdownError: UNAUTHENTICATED, or STORE_UNAVAILABLE when Postgres would have to be asked.
        """
        secret_id = secret_id_of(text)
        if secret_id is None:
            raise unauthenticated()
        known = self._known.get(secret_id) or await self._look_up(secret_id)
        if known is None or not self._peppers.is_of(text, known.record.pepper_id, known.record.digest):
            raise unauthenticated()
        if clock.monotonic_s() >= known.end_s:
            raise unauthenticated()
        if self.age_s >= self._stale_max_s:
            raise StoreUnavailableError("postgres", "postgres was away for too long to know which keys are revoked")
        if self._known.get(secret_id) is known:  # else it was forgotten meanwhile
            self._by_text[text] = known
        return known.caller

    async def refresh(self) -> None:
        """Ask Postgres what has changed about the known keys.

        Raises:
            StoreUnavailableError: It did not answer.
        """
        # Before the query: our time is then a little ahead of Postgres', and keys end early rather than late.
        asked_s = clock.monotonic_s()
        asked = {secret_id: known.record.revision for secret_id, known in self._known.items()}
        read_ms, changed = await self._reader.read_changed_secrets(asked)
        self._read_s, self._read_ms = asked_s, read_ms
        for secret_id, record in changed.items():
            self._forget(secret_id)
            if record is not None:
                self._learn(record)

    async def run(self, stop: asyncio.Event) -> None:
        """Refresh until told to stop."""
        is_stale = False
        while not await stopped(stop, REFRESH_INTERVAL_S):
            try:
                await self.refresh()
            except StoreUnavailableError:
                if not is_stale:
                    log.warning("api_keys.stale", change="revocations are not heard of until postgres answers")
                is_stale = True
            else:
                is_stale = False

    async def _look_up(self, secret_id: str) -> _Known | None:
        if self._unknown_until_s.get(secret_id, 0.0) > clock.monotonic_s():
            return None
        if self._looking_up >= LOOK_UPS_MAX:
            raise StoreUnavailableError("postgres", "too many unknown keys wait to be looked up")
        self._looking_up += 1
        try:
            record = await self._reader.read_secret(secret_id)
        finally:
            self._looking_up -= 1
        if record is not None:
            self.found_total += 1
            # What was looked up at the same time may be known by now, and texts lead to it. It must not be replaced: no
            # refresh would find those texts again, and a revocation would not reach them.
            return self._known.get(secret_id) or self._learn(record)
        self.unknown_total += 1
        if len(self._unknown_until_s) >= UNKNOWN_MAX:
            self._unknown_until_s.clear()
        self._unknown_until_s[secret_id] = clock.monotonic_s() + UNKNOWN_TTL_S
        return None

    def _learn(self, record: SecretRecord) -> _Known:
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
            self._by_text.clear()
        if record.pepper_id not in self._peppers:
            log.error("api_key.pepper_missing", tenant=record.tenant_id, key=record.key_id, pepper=record.pepper_id)
        end_s = self._read_s + (record.end_ms - self._read_ms) / 1000 if record.end_ms else math.inf
        known = self._known[record.secret_id] = _Known(record, end_s)
        return known

    def _forget(self, secret_id: str) -> None:
        known = self._known.pop(secret_id, None)
        for text in [text for text, of in self._by_text.items() if of is known]:
            del self._by_text[text]
