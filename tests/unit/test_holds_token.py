"""Hold tokens: what goes in comes out, and nothing else does."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest

from drawdown_server.holds.model import ExpiryAction, Hold, HoldAmount, HoldState, OveragePolicy
from drawdown_server.holds.token import TOKEN_BYTES_MAX, TokenError, TokenKeys
from drawdown_server.rpc.validation import AMOUNTS_MAX, ID_CHARS_MAX, LABEL_KEY_CHARS_MAX, LABELS_MAX, SUBJECTS_MAX

ONE: Final = {"one": bytes(range(32))}
TWO: Final = {"two": bytes(range(32, 64))}
UNITS: Final = 2**53 - 1
TIME_MS: Final = 253_402_300_799_999


def a_hold(*, labels: str = "", assets: int = 2, subjects: int = 2, chars: int = 10) -> Hold:
    return Hold(
        hold_id="h" * chars,
        state=HoldState.HELD,
        fingerprint=".".join(["3xGk0Qa1"] * 7),
        amounts=[
            HoldAmount(f"A{n:02}".ljust(32, "X"), UNITS, UNITS, 0, 0, 0, OveragePolicy.CHARGE_AVAILABLE)
            for n in range(assets)
        ],
        create_ms=TIME_MS,
        expire_ms=TIME_MS,
        settle_ms=0,
        subjects=[f"{n:02}".ljust(chars, "s") for n in range(subjects)],
        expiry_action=ExpiryAction.COMMIT_FULL,
        labels=labels,
        late=False,
        wallet_sequence=0,
        way=1,
    )


def test_a_token_says_what_was_held() -> None:
    hold = a_hold(labels='{"team":"search"}')
    token = TokenKeys(ONE).read(TokenKeys(ONE).make("acme", "w1", 7, hold))
    content = token.content
    assert (token.key_id, token.is_genuine) == ("one", True)
    assert (content.tenant_id, content.wallet_id, content.hold_id, content.epoch) == ("acme", "w1", hold.hold_id, 7)
    assert [(a.asset, a.authorized, a.overage_policy) for a in content.amounts] == [
        (a.asset, a.authorized, a.overage_policy) for a in hold.amounts
    ]
    for field in ("create_ms", "expire_ms", "fingerprint", "expiry_action", "way", "subjects", "labels"):
        assert getattr(content, field) == getattr(hold, field)


def test_every_hold_that_the_api_admits_has_a_token_that_fits() -> None:
    hold = a_hold(assets=AMOUNTS_MAX, subjects=SUBJECTS_MAX, chars=ID_CHARS_MAX)
    names = ("t" * ID_CHARS_MAX, "w" * ID_CHARS_MAX)
    keys = TokenKeys({"k" * 32: bytes(32)})
    plain = keys.make(*names, 2**53, hold)
    assert len(plain) <= TOKEN_BYTES_MAX
    room = TOKEN_BYTES_MAX - len(plain)
    for labels, kept in (("x" * (room - 4), True), ("x" * (LABELS_MAX * LABEL_KEY_CHARS_MAX * 4), False)):
        token = keys.make(*names, 2**53, msgspec.structs.replace(hold, labels=labels))
        assert len(token) <= TOKEN_BYTES_MAX
        assert keys.read(token).content.labels == (labels if kept else "")


def test_no_bit_of_a_token_can_be_changed() -> None:
    keys = TokenKeys(ONE)
    token = keys.make("acme", "w1", 1, a_hold())
    for place in range(len(token)):
        for bit in range(8):
            changed = bytearray(token)
            changed[place] ^= 1 << bit
            try:
                found = keys.read(bytes(changed))
            except TokenError:
                continue
            assert not found.is_genuine, (
                "another key's id: not believed, and not to be had by a change of anything else"
            )
            assert 2 <= place < 5


@pytest.mark.parametrize("length", [0, 1, 2, 3, 33, 34, 35, 60, -1])
def test_a_piece_of_a_token_is_none(length: int) -> None:
    keys = TokenKeys(ONE)
    with pytest.raises(TokenError, match=r"^must be "):
        keys.read(keys.make("acme", "w1", 1, a_hold())[:length])


def test_bytes_that_are_no_content_are_refused_whoever_signed_them() -> None:
    keys = TokenKeys(ONE)
    for content in (b"", b"\xc1", msgspec.msgpack.encode([1]), msgspec.msgpack.encode(["\x00"] * 12)):
        with pytest.raises(TokenError, match="hold_token"):
            keys.read(keys._signer.sign(content))


def test_a_forger_without_the_secret_is_found_out() -> None:
    forged = TokenKeys({"one": bytes(32)}).make("acme", "w1", 1, a_hold())
    with pytest.raises(TokenError, match="signature"):
        TokenKeys(ONE).read(forged)


def test_the_first_key_signs_and_all_verify() -> None:
    old = TokenKeys(ONE).make("acme", "w1", 1, a_hold())
    rotated = TokenKeys(TWO | ONE)
    new = rotated.make("acme", "w1", 1, a_hold())
    assert rotated.read(old) == TokenKeys(ONE).read(old)
    assert rotated.read(new).key_id == "two"
    assert TokenKeys(ONE).read(new).is_genuine is False
    assert TokenKeys(ONE).read(new).content == rotated.read(new).content


def test_without_keys_there_are_no_tokens() -> None:
    assert TokenKeys({}).make("acme", "w1", 1, a_hold()) == b""
    assert TokenKeys({}).read(TokenKeys(ONE).make("acme", "w1", 1, a_hold())).is_genuine is False
