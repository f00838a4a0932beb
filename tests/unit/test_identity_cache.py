"""Keys in memory, and who a call is from: against a Postgres that is a dictionary, on a clock that stands still."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import pytest

from drawdown_server import clock
from drawdown_server.errors import DrawdownError, ErrorReason, StoreUnavailableError
from drawdown_server.identity import api_keys, key_cache
from drawdown_server.identity.api_keys import Peppers, SecretRecord, new_key
from drawdown_server.identity.caller import Caller
from drawdown_server.identity.credentials import Credentials
from drawdown_server.identity.key_cache import KeyCache
from drawdown_server.identity.scopes import Scope
from drawdown_server.identity.wallet_tokens import WalletTokenContent, WalletTokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECRETS: Final = {"one": bytes(range(32))}
PEPPERS: Final = Peppers(SECRETS)
STALE_MAX_S: Final = 100.0
NOW_MS: Final = 1_800_000_000_000
SCOPES: Final = frozenset({Scope.AUTHORIZE})


class Time:
    """Ours, and Postgres'."""

    def __init__(self) -> None:
        self.s = 1_000.0

    @property
    def ms(self) -> int:
        return NOW_MS + int(self.s * 1000)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(clock, "monotonic_s", lambda: time.s)
    return time


class Keys:
    """Postgres."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self._records: dict[str, SecretRecord] = {}
        self.reads: list[str] = []
        self.is_away = False
        self.gate: asyncio.Event | None = None

    def add(self, *, tenant: str = "acme", key: str = "gateway", end_ms: int = 0, peppers: Peppers = PEPPERS) -> str:
        text = new_key()
        secret_id, pepper_id, digest = peppers.digest(text)
        self._records[secret_id] = SecretRecord(secret_id, tenant, key, SCOPES, pepper_id, digest, 1, end_ms)
        return text

    def change(self, text: str, end_ms: int) -> None:
        record = self._records[text[4:16]]
        self._records[text[4:16]] = record._replace(end_ms=end_ms, revision=record.revision + 1)

    def delete(self, text: str) -> None:
        del self._records[text[4:16]]

    async def read_secret(self, secret_id: str) -> SecretRecord | None:
        if self.gate is not None:
            await self.gate.wait()
        if self.is_away:
            raise StoreUnavailableError("postgres")
        self.reads.append(secret_id)
        return self._records.get(secret_id)

    async def read_changed_secrets(self, known: Mapping[str, int]) -> tuple[int, dict[str, SecretRecord | None]]:
        if self.is_away:
            raise StoreUnavailableError("postgres")
        now = {secret_id: self._records.get(secret_id) for secret_id in known}
        changed = {i: r for i, r in now.items() if r is None or r.revision != known[i]}
        return self._time.ms, changed


@pytest.fixture
def keys(time: Time) -> Keys:
    return Keys(time)


@pytest.fixture
async def cache(keys: Keys) -> KeyCache:
    cache = KeyCache(keys, PEPPERS, stale_max_s=STALE_MAX_S)
    await cache.refresh()
    return cache


async def reason(cache: KeyCache, text: str) -> ErrorReason | None:
    """Why a key is not let in; None when it is."""
    try:
        found = await cache.find(text)
    except DrawdownError as error:
        assert cache.peek(text) is None, "what find refuses peek does not know"
        return error.reason
    assert cache.peek(text) is found
    return None


def forged(text: str) -> str:
    """A key with the id of another one, and a secret of its own."""
    body = text[:17] + new_key()[17:-6]
    return body + api_keys._checksum(body)


async def test_a_key_is_looked_up_once_and_then_known_by_its_text(cache: KeyCache, keys: Keys) -> None:
    text = keys.add()
    assert cache.peek(text) is None
    for _ in range(3):
        assert await cache.find(text) == Caller("acme", "key:gateway", SCOPES)
    assert cache.peek(text) == Caller("acme", "key:gateway", SCOPES)
    assert keys.reads == [text[4:16]]


async def test_another_secret_under_a_known_id_is_refused_without_a_query(cache: KeyCache, keys: Keys) -> None:
    text = keys.add()
    assert await reason(cache, text) is None
    assert await reason(cache, forged(text)) is ErrorReason.UNAUTHENTICATED
    assert await reason(cache, text) is None
    assert keys.reads == [text[4:16]]


async def test_a_malformed_key_asks_nobody(cache: KeyCache, keys: Keys) -> None:
    assert await reason(cache, "ddk_hunter2") is ErrorReason.UNAUTHENTICATED
    assert keys.reads == []


async def test_an_unknown_key_is_looked_up_again_only_after_a_moment(cache: KeyCache, keys: Keys, time: Time) -> None:
    text = new_key()
    for _ in range(3):
        assert await reason(cache, text) is ErrorReason.UNAUTHENTICATED
    assert keys.reads == [text[4:16]]
    time.s += key_cache.UNKNOWN_TTL_S
    assert await reason(cache, text) is ErrorReason.UNAUTHENTICATED
    assert keys.reads == [text[4:16]] * 2


async def test_what_was_looked_up_is_counted_and_how_old_the_answer_is(cache: KeyCache, keys: Keys, time: Time) -> None:
    for text in [keys.add(), new_key(), new_key(), "no key"]:
        for _ in range(2):
            await reason(cache, text)
    assert (cache.found_total, cache.unknown_total) == (1, 2)
    time.s += 7
    assert cache.age_s == 7
    await cache.refresh()
    assert cache.age_s == 0


async def test_guesses_fill_no_memory(cache: KeyCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_cache, "UNKNOWN_MAX", 10)
    for _ in range(35):
        assert await reason(cache, new_key()) is ErrorReason.UNAUTHENTICATED
    assert len(cache._unknown_until_s) <= 10


async def test_guesses_beyond_those_that_may_wait_are_sent_away(
    cache: KeyCache, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_cache, "LOOK_UPS_MAX", 3)
    known = keys.add()
    assert await reason(cache, known) is None
    keys.gate = asyncio.Event()
    waiting = [asyncio.create_task(reason(cache, new_key())) for _ in range(3)]
    await asyncio.sleep(0)
    assert await reason(cache, new_key()) is ErrorReason.STORE_UNAVAILABLE
    assert await reason(cache, known) is None
    keys.gate.set()
    assert set(await asyncio.gather(*waiting)) == {ErrorReason.UNAUTHENTICATED}
    assert await reason(cache, new_key()) is ErrorReason.UNAUTHENTICATED


async def test_more_keys_than_are_remembered_all_work(
    cache: KeyCache, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_cache, "KNOWN_MAX", 5)
    texts = [keys.add(key=f"k{n}") for n in range(12)]
    for text in texts * 2:
        assert await reason(cache, text) is None
        assert len(cache._known) <= 5
        assert len(cache._by_text) <= 5


async def test_a_revocation_counts_after_the_next_refresh(cache: KeyCache, keys: Keys, time: Time) -> None:
    text, other = keys.add(), keys.add(key="other")
    assert await reason(cache, text) is await reason(cache, other) is None
    keys.change(text, end_ms=time.ms)
    await cache.refresh()
    assert await reason(cache, text) is ErrorReason.UNAUTHENTICATED
    assert await reason(cache, other) is None
    assert keys.reads == [text[4:16], other[4:16]]


@pytest.mark.parametrize("first", [True, False], ids=["the key first", "another secret first"])
async def test_a_revocation_counts_for_a_key_that_was_looked_up_together_with_another_secret_of_its_id(
    cache: KeyCache, keys: Keys, time: Time, *, first: bool
) -> None:
    text = keys.add()
    keys.gate = asyncio.Event()
    together = [text, forged(text)] if first else [forged(text), text]
    asked = [asyncio.create_task(reason(cache, each)) for each in together]
    await asyncio.sleep(0)
    keys.gate.set()
    assert set(await asyncio.gather(*asked)) == {None, ErrorReason.UNAUTHENTICATED}
    keys.change(text, end_ms=time.ms)
    await cache.refresh()
    assert cache.peek(text) is None
    assert await reason(cache, text) is ErrorReason.UNAUTHENTICATED


async def test_a_key_that_was_deleted_by_hand_is_unknown_after_the_next_refresh(cache: KeyCache, keys: Keys) -> None:
    text = keys.add()
    assert await reason(cache, text) is None
    keys.delete(text)
    await cache.refresh()
    assert await reason(cache, text) is ErrorReason.UNAUTHENTICATED


async def test_a_key_ends_at_its_time_by_postgres_clock(cache: KeyCache, keys: Keys, time: Time) -> None:
    text = keys.add(end_ms=time.ms + 5_000)
    assert await reason(cache, text) is None
    time.s += 4.9
    assert await reason(cache, text) is None
    time.s += 0.2
    assert cache.peek(text) is None
    assert await reason(cache, text) is ErrorReason.UNAUTHENTICATED


async def test_without_postgres_known_keys_go_on_for_a_while_and_others_wait(
    cache: KeyCache, keys: Keys, time: Time
) -> None:
    text, other = keys.add(), keys.add(key="other")
    assert await reason(cache, text) is None
    keys.is_away = True
    with pytest.raises(StoreUnavailableError):
        await cache.refresh()
    time.s += STALE_MAX_S - 1
    assert await reason(cache, text) is None
    assert await reason(cache, other) is ErrorReason.STORE_UNAVAILABLE, "neither let in nor called wrong"
    time.s += 2
    assert cache.peek(text) is None
    assert await reason(cache, text) is ErrorReason.STORE_UNAVAILABLE
    keys.is_away = False
    await cache.refresh()
    assert await reason(cache, text) is await reason(cache, other) is None


async def test_a_key_of_a_pepper_that_is_gone_is_refused(cache: KeyCache, keys: Keys) -> None:
    text = keys.add(peppers=Peppers({"old": bytes(32)}))
    assert await reason(cache, text) is ErrorReason.UNAUTHENTICATED


# --- from what a call brings to its caller ---


class Transport:
    """A call's connection."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        return {}


class Certificates:
    """Everybody has the certificate of this caller."""

    def __init__(self, caller: Caller | None) -> None:
        self._caller = caller

    def caller_of(self, _peer: object) -> Caller | None:
        return self._caller


TRANSPORT: Final = Transport()
CERTIFIED: Final = Caller("acme", "spiffe://acme/gateway", frozenset({Scope.READ}))


async def refusal(credentials: Credentials, *headers: str | bytes) -> ErrorReason:
    with pytest.raises(DrawdownError) as caught:
        await credentials.caller([("authorization", header) for header in headers], TRANSPORT)
    return caught.value.reason


async def test_without_identity_every_call_is_of_one_caller_whatever_it_brings() -> None:
    everybody = Caller("acme", "", SCOPES)
    credentials = Credentials(everybody=everybody)
    assert await credentials.caller(None, TRANSPORT) is everybody
    assert await credentials.caller([("authorization", "Bearer nonsense")], TRANSPORT) is everybody


async def test_a_key_is_taken_from_one_bearer_header_and_from_nothing_else(cache: KeyCache, keys: Keys) -> None:
    credentials, text = Credentials(keys=cache), keys.add()
    metadata = [("traceparent", "x"), ("authorization", f"Bearer {text}")]
    assert (await credentials.caller(metadata, TRANSPORT)).principal == "key:gateway"
    for headers in (
        (), (text,), (f"Basic {text}",), (f"bearer{text}",), (f"Bearer  {text}",), ("Bearer ",), ("",),
        (b"Bearer x",), (f"Bearer {text}", f"Bearer {text}"), (f"Bearer {text},",),
    ):  # fmt: skip
        assert await refusal(credentials, *headers) is ErrorReason.UNAUTHENTICATED, headers
    with pytest.raises(DrawdownError, match="credential"):
        await credentials.caller(None, TRANSPORT)


async def test_why_a_credential_is_refused_is_told_to_nobody(cache: KeyCache, keys: Keys, time: Time) -> None:
    credentials = Credentials(keys=cache, tokens=WalletTokens(SECRETS))
    expired, revoked = keys.add(end_ms=time.ms - 1), keys.add()
    assert await reason(cache, revoked) is None
    keys.change(revoked, time.ms)
    await cache.refresh()
    old = WalletTokens(SECRETS).make(WalletTokenContent("acme", "w", time.ms))
    told = set()
    for header in ("", "Bearer x", f"Bearer {new_key()}", f"Bearer {expired}", f"Bearer {revoked}", f"Bearer {old}"):
        with pytest.raises(DrawdownError) as caught:
            await credentials.caller([("authorization", header)], TRANSPORT)
        told.add((caught.value.reason, caught.value.message, str(caught.value.metadata)))
    assert len(told) == 1


async def test_a_wallet_token_is_a_caller_of_one_wallet_until_its_time(cache: KeyCache, time: Time) -> None:
    credentials = Credentials(keys=cache, tokens=WalletTokens(SECRETS))
    header = f"Bearer {WalletTokens(SECRETS).make(WalletTokenContent('acme', 'w1', time.ms + 1_000))}"
    caller = await credentials.caller([("authorization", header)], TRANSPORT)
    assert caller == Caller("acme", "wallet:w1", frozenset({Scope.READ}), "w1")
    time.s += 1
    assert await refusal(credentials, header) is ErrorReason.UNAUTHENTICATED


async def test_a_certificate_alone_is_enough_where_certificates_are_accepted() -> None:
    assert await Credentials(certificates=Certificates(CERTIFIED)).caller([], TRANSPORT) is CERTIFIED
    assert await refusal(Credentials(certificates=Certificates(None))) is ErrorReason.UNAUTHENTICATED


async def test_a_key_beside_a_certificate_must_be_of_its_tenant_and_brings_the_scopes(
    cache: KeyCache, keys: Keys
) -> None:
    ours, theirs = keys.add(tenant="acme"), keys.add(tenant="other")
    credentials = Credentials(keys=cache, certificates=Certificates(CERTIFIED))
    assert await credentials.caller([], TRANSPORT) is CERTIFIED
    caller = await credentials.caller([("authorization", f"Bearer {ours}")], TRANSPORT)
    assert caller == Caller("acme", "key:gateway", SCOPES)
    assert await refusal(credentials, f"Bearer {theirs}") is ErrorReason.UNAUTHENTICATED
    assert await refusal(credentials, "Bearer wrong") is ErrorReason.UNAUTHENTICATED, "a wrong key is not ignored"
