from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from drawdown_server.config import KEY_BYTES_MIN, Config, mask_url, new_token_key, token_secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = "drawdown-server serve"
SECRET = "A" * 42 + "E="
OTHER_SECRET = "B" * 42 + "E="


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import os  # noqa: PLC0415

    for name in [name for name in os.environ if name.startswith("DRAWDOWN_")]:
        monkeypatch.delenv(name)
    yield


def test_every_default_is_valid_and_described() -> None:
    assert Config.model_validate(Config().model_dump()) == Config()
    assert [name for name, field in Config.model_fields.items() if not field.description] == []


def test_settings_come_from_the_environment_and_flags_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAWDOWN_GRPC_PORT", "1111")
    monkeypatch.setenv("DRAWDOWN_TENANT", "acme")
    config = Config.from_flags(["--grpc-port", "2222", "--no-flusher", "--reflection"], program=PROGRAM)
    assert (config.grpc_port, config.tenant, config.flusher, config.reflection) == (2222, "acme", False, True)


@pytest.mark.parametrize(("name", "value"), [
    ("GRPC_PORT", "65536"), ("GRPC_PORT", "x"), ("PARTITIONS", "0"), ("PARTITIONS", "1025"), ("TENANT", "a b"),
    ("TENANT", ""), ("TOMBSTONE_MS", "999"), ("LEASE_TTL_MS", "1"), ("LOG_LEVEL", "LOUD"), ("DRAIN_GRACE_S", "-1"),
    ("TTL_DEFAULT_MS", "86400001"), ("FLUSHER", "maybe"),
])  # fmt: skip
def test_a_bad_value_names_its_setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"DRAWDOWN_{name}", value)
    with pytest.raises(ValidationError) as caught:
        Config.from_flags([], program=PROGRAM)
    assert [error["loc"] for error in caught.value.errors()] == [(name.lower(),)]


@pytest.mark.parametrize(("settings", "name", "rule"), [
    ({"TLS_CERTIFICATE": "a"}, "tls_key", "a certificate and its key go together"),
    ({"TLS_KEY": "a"}, "tls_key", "a certificate and its key go together"),
    ({"TLS_CLIENT_CA": "a"}, "tls_client_ca", "over TLS only"),
    ({"TLS_CERTIFICATE": "a", "TLS_KEY": "b", "GRPC_CERTIFICATE_PORT": "1"}, "grpc_certificate_port", "tls_client_ca"),
    (
        {"TLS_CERTIFICATE": "a", "TLS_KEY": "b", "TLS_CLIENT_CA": "c", "GRPC_PORT": "1", "GRPC_CERTIFICATE_PORT": "1"},
        "grpc_certificate_port", "must be another port than grpc_port",
    ),
])  # fmt: skip
def test_settings_of_tls_that_do_not_go_together_are_named(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], name: str, rule: str
) -> None:
    for variable, value in settings.items():
        monkeypatch.setenv(f"DRAWDOWN_{variable}", value)
    with pytest.raises(ValidationError, match=rule) as caught:
        Config.from_flags([], program=PROGRAM)
    assert [error["loc"] for error in caught.value.errors()] == [(name,)]


def test_help_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Config.from_flags(["--help"], program=PROGRAM)
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name, field in Config.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert (field.description or "?").split()[0] in text


def test_an_unknown_flag_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Config.from_flags(["--grcp-port", "1"], program=PROGRAM)
    assert caught.value.code == 2
    assert "--grcp-port" in capsys.readouterr().err


@pytest.mark.parametrize(("url", "masked"), [
    ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
    ("redis://:hunter2@host:1/0", "redis://:***@host:1/0"),
    ("rediss://user:hunter2@host/0", "rediss://user:***@host/0"),
    ("postgresql://drawdown:hunter2@db:5432/x?sslmode=disable", "postgresql://drawdown:***@db:5432/x?sslmode=disable"),
    ("postgresql://u:p%40hunter2@db/x", "postgresql://u:***@db/x"),
    ("postgresql://hunter2:hunter2@db/x", "postgresql://hunter2:***@db/x"),
])  # fmt: skip
def test_passwords_in_urls_are_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked


@pytest.mark.parametrize(("url", "masked"), [
    ("postgresql://u@db/x?password=hunter2&sslmode=disable", "postgresql://u@db/x?password=***&sslmode=disable"),
    ("redis://h/0?db=1&password=hunter2", "redis://h/0?db=1&password=***"),
    ("rediss://h/0?ssl_keyfile=k&ssl_password=hunter2", "rediss://h/0?ssl_keyfile=k&ssl_password=***"),
    ("postgresql://u@db/x?sslkey=k&sslpassword=hunter2", "postgresql://u@db/x?sslkey=k&sslpassword=***"),
])  # fmt: skip
def test_passwords_in_the_query_of_urls_are_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_the_password_of_a_socket_is_masked() -> None:
    assert "hunter2" not in mask_url("unix:///run/valkey.sock?password=hunter2")


def test_what_is_printed_has_every_setting_and_no_password() -> None:
    values: dict[str, Any] = Config(
        valkey_url="redis://:hunter2@h/0", postgres_url="postgresql://u:hunter3@h/x"
    ).masked()
    assert set(values) == set(Config.model_fields)
    assert "hunter" not in "".join(values.values())


def test_a_new_token_key_is_one_that_the_setting_takes() -> None:
    one, two = new_token_key(), new_token_key()
    secrets = token_secrets(f"{one},{two}")
    assert list(secrets) == [one.partition(":")[0], two.partition(":")[0]]
    assert [len(secret) for secret in secrets.values()] == [KEY_BYTES_MIN] * 2
    assert secrets[one.partition(":")[0]] != secrets[two.partition(":")[0]]


def test_token_keys_are_masked() -> None:
    config = Config(hold_token_keys=f"new:{SECRET},old:{OTHER_SECRET}")
    assert config.masked()["hold_token_keys"] == "new:***,old:***"  # noqa: S105
    assert SECRET not in repr(config)


@pytest.mark.parametrize(("keys", "rule"), [
    ("hunter2", "must be id:secret[,id:secret...], each id 1-32 of [A-Za-z0-9_-]"),
    (f"a b:{'A' * 43}=", "must be id:secret[,id:secret...], each id 1-32 of [A-Za-z0-9_-]"),
    ("k:hunter2", "the secret of k must be base64 (URL-safe) of at least 32 bytes"),
    (f"k:{'A' * 42}==", "the secret of k must be base64 (URL-safe) of at least 32 bytes"),
    (f"k:{'A' * 43}=,k:{'B' * 43}=", "names the key k twice"),
    (f"k:{'A' * 43}=,", "must be id:secret[,id:secret...], each id 1-32 of [A-Za-z0-9_-]"),
])  # fmt: skip
def test_bad_token_keys_are_refused_and_not_repeated(keys: str, rule: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Config(hold_token_keys=keys)
    assert [error["msg"] for error in caught.value.errors()] == [f"Value error, {rule}"]
    assert "hunter2" not in str(caught.value)
    assert "AAAA" not in str(caught.value)
