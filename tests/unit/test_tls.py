"""The server's certificate: which files are taken, and which are not."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from certificates import DAY, Authority, Issued
from drawdown_server.errors import ConfigurationError
from drawdown_server.rpc.tls import READS_MAX, ServerCertificate

if TYPE_CHECKING:
    from pathlib import Path

CA = Authority()


def opened(directory: Path, issued: Issued | None = None) -> ServerCertificate:
    """A certificate in files of this directory."""
    certificate, key = (issued or CA.issue()).write(directory, "server")
    (directory / "ca.crt").write_bytes(CA.pem)
    return ServerCertificate(certificate, key, directory / "ca.crt")


def in_force(certificate: ServerCertificate) -> bytes:
    return certificate._pair.certificate


BROKEN = {
    "a key of another certificate": (
        lambda d: (d / "server.key").write_bytes(CA.issue().key),
        "tls_key: is not the key",
    ),
    "an encrypted key": (
        lambda d: CA.issue(password=b"hunter2").write(d, "server"),
        "tls_key: is encrypted; the server has no password for it",
    ),
    "no key": (lambda d: (d / "server.key").write_bytes(b"none"), "tls_key: has no private key in PEM"),
    "an empty certificate": (
        lambda d: (d / "server.crt").write_bytes(b""),
        "tls_certificate: has no certificate in PEM",
    ),
    "half a certificate": (
        lambda d: (d / "server.crt").write_bytes(CA.issue().certificate[:200]),
        "tls_certificate: has no certificate in PEM, or one that is broken",
    ),
    "an expired certificate": (
        lambda d: CA.issue(lives=-DAY).write(d, "server"),
        "tls_certificate: expired at ",
    ),
    "no file": (lambda d: (d / "server.crt").unlink(), "server.crt cannot be read: No such file or directory"),
    "authorities that are none": (lambda d: (d / "ca.crt").write_bytes(b"none"), "tls_client_ca: has no certificate"),
}


@pytest.mark.parametrize(("break_it", "expected"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_used_is_refused_at_start_by_the_name_of_its_setting(
    directory: Path, break_it: object, expected: str
) -> None:
    opened(directory)
    assert callable(break_it)
    break_it(directory)
    with pytest.raises(ConfigurationError, match=expected):
        ServerCertificate(directory / "server.crt", directory / "server.key", directory / "ca.crt")


@pytest.mark.parametrize(("break_it", "expected"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_used_later_leaves_the_old_in_force_and_is_told_once(
    directory: Path, break_it: object, expected: str
) -> None:
    certificate = opened(directory)
    before = in_force(certificate)
    assert callable(break_it)
    break_it(directory)
    with capture_logs() as logs:
        for _ in range(3):
            certificate.refresh()
    assert in_force(certificate) == before
    assert [line["log_level"] for line in logs] == ["error"]
    assert expected in logs[0]["problem"]
    assert (certificate.reloads_total, certificate.failures_total) == (0, 1)

    renewed = CA.issue(lives=2 * DAY)
    renewed.write(directory, "server")
    (directory / "ca.crt").write_bytes(CA.pem)
    certificate.refresh()
    assert in_force(certificate) == renewed.certificate
    assert (certificate.reloads_total, certificate.failures_total) == (1, 1)
    assert certificate.expire_s == pytest.approx(time.time() + (2 * DAY).total_seconds(), abs=60)


def test_no_word_of_a_key_is_told(directory: Path) -> None:
    certificate = opened(directory)
    (directory / "server.key").write_text("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n")
    with capture_logs() as logs:
        certificate.refresh()
    assert "hunter2" not in str(logs)


def test_files_that_did_not_change_are_not_read_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = opened(directory)
    monkeypatch.setattr(certificate, "_read", lambda: pytest.fail("read"))
    certificate.refresh()


def test_the_same_content_in_a_new_file_is_no_reload(directory: Path) -> None:
    issued = CA.issue()
    certificate = opened(directory, issued)
    os.utime(directory / "server.crt", (1, 1))
    certificate.refresh()
    assert (certificate.reloads_total, certificate.failures_total) == (0, 0)


def test_the_swap_of_a_kubernetes_secret_is_one_reload(directory: Path) -> None:
    """The files are links through ..data, which is a link to a directory with the time of the secret in its name."""
    old, new = CA.issue(), CA.issue()
    for name, issued in (("..2026_11_25_1", old), ("..2026_11_25_2", new)):
        (directory / name).mkdir()
        (directory / name / "tls.crt").write_bytes(issued.certificate)
        (directory / name / "tls.key").write_bytes(issued.key)
    (directory / "..data").symlink_to("..2026_11_25_1")
    for name in ("tls.crt", "tls.key"):
        (directory / name).symlink_to(f"..data/{name}")
    certificate = ServerCertificate(directory / "tls.crt", directory / "tls.key", None)
    assert in_force(certificate) == old.certificate

    (directory / "..data_tmp").symlink_to("..2026_11_25_2")
    (directory / "..data_tmp").rename(directory / "..data")
    certificate.refresh()
    assert in_force(certificate) == new.certificate
    assert certificate.reloads_total == 1


def test_a_pair_of_two_generations_is_read_again_and_no_error(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are swapped after the certificate was read and before the key is."""
    certificate = opened(directory)
    renewed, read, reads = CA.issue(lives=timedelta(days=3)), certificate._read, 0

    def read_while_it_changes() -> object:
        nonlocal reads
        reads += 1
        if reads == 1:
            renewed.write(directory, "server")
            raise ConfigurationError("tls_key: is not the key of tls_certificate's first certificate")
        return read()

    os.utime(directory / "server.crt", (1, 1))
    monkeypatch.setattr(certificate, "_read", read_while_it_changes)
    with capture_logs() as logs:
        certificate.refresh()
    assert in_force(certificate) == renewed.certificate
    assert "tls.not_reloaded" not in {line["event"] for line in logs}
    assert (certificate.reloads_total, certificate.failures_total) == (1, 0)


def test_files_that_never_rest_keep_the_old_certificate(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = opened(directory)
    before, reads = in_force(certificate), 0

    def read_while_it_changes() -> object:
        nonlocal reads
        reads += 1
        os.utime(directory / "server.crt", (reads, reads))
        return None

    os.utime(directory / "server.crt", (99, 99))
    monkeypatch.setattr(certificate, "_read", read_while_it_changes)
    certificate.refresh()
    assert (in_force(certificate), reads) == (before, READS_MAX)
