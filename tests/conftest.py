"""Fixtures: real stores, one set per worker, emptied for each test.

The server fixtures are synchronous, so that they belong to no event loop. Nothing is left behind: servers are stopped
and their directories deleted at the end, and a run that is killed has its servers stopped by their guards.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

# Before gRPC is imported: its fork handlers start threads in a child that is on its way to become Postgres.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import pytest
import structlog
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis

from drawdown_server.dev.postgres import PostgresProcess
from drawdown_server.dev.valkey import ValkeyProcess
from drawdown_server.dev.valkey_cluster import ValkeyCluster

sys.path.insert(0, str(Path(__file__).parent))  # helpers beside the tests, in every import mode

import stores

pytest_plugins = ["integration.server"]

# The same examples in each run, so that a change is what makes a test fail; `make soak` looks for others and prints how
# to make a failure again. How long an example takes is the machine's affair.
settings.register_profile(
    "test", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("soak", settings.get_profile("test"), derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS", "test"))

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(autouse=True)
def all_levels_logged() -> None:
    """A test that runs a command in this process leaves its log level behind, and the next one hears nothing.

    Tracebacks are plain: structlog's own, with colours and the values of all variables, take seconds of a server's
    event loop.
    """
    structlog.reset_defaults()
    *processors, _ = structlog.get_config()["processors"]
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*processors, renderer])


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory of this worker. Not pytest's tmp_path: that one keeps the last three runs."""
    directory = Path(tempfile.mkdtemp(prefix="drawdown-test-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def worker_directory() -> Iterator[Path]:
    """Where this worker's servers keep their data; deleted at the end."""
    with scratch_directory() as directory:
        yield directory


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """An empty directory of this test, deleted at its end."""
    with scratch_directory() as directory:
        yield directory / "data"


@pytest.fixture(scope="session")
def valkey_process(worker_directory: Path) -> Iterator[ValkeyProcess]:
    """This worker's Valkey. A test that kills it must start it again; most want ``valkey_url``."""
    extra = stores.with_users(worker_directory)
    with ValkeyProcess(worker_directory / "valkey", appendfsync="no", extra=extra) as server:
        yield server


@pytest.fixture(scope="session")
def redis7_process(worker_directory: Path) -> Iterator[ValkeyProcess]:
    """This worker's Redis 7; skips where it is not installed."""
    binary = stores.redis_binary()
    if binary is None:
        pytest.skip(stores.REDIS_MISSING)
    extra = stores.with_users(worker_directory)
    with ValkeyProcess(worker_directory / "redis7", binary=binary, appendfsync="no", extra=extra) as server:
        yield server


@pytest.fixture(scope="session")
def cluster_process(worker_directory: Path) -> Iterator[ValkeyCluster]:
    """This worker's Valkey Cluster of three primaries. A test that kills a node or moves slots makes its own."""
    extra = stores.with_users(worker_directory)
    with ValkeyCluster(worker_directory / "cluster", appendfsync="no", extra=extra) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres_process(worker_directory: Path) -> Iterator[PostgresProcess]:
    """This worker's Postgres, with a migrated template database; most tests want ``postgres_url``."""
    with PostgresProcess(worker_directory / "postgres", fsync=False) as server:
        asyncio.run(stores.migrated_template(server.url, server.url_of(stores.TEMPLATE_DATABASE)))
        yield server


@pytest.fixture
def valkey_server(valkey_process: ValkeyProcess) -> ValkeyProcess:
    """This worker's Valkey, empty."""
    stores.empty(valkey_process)
    return valkey_process


@pytest.fixture
def valkey_url(valkey_server: ValkeyProcess) -> str:
    """URL of an empty Valkey, for a server's user; ``valkey_server.url`` is that of one who may do everything."""
    return stores.as_user(valkey_server.url, stores.SERVER_USER)


@pytest.fixture
def cluster(cluster_process: ValkeyCluster) -> ValkeyCluster:
    """This worker's Valkey Cluster, empty."""
    stores.empty(*cluster_process.nodes)
    return cluster_process


@pytest.fixture
async def admin(valkey_server: ValkeyProcess) -> AsyncIterator[Redis]:
    """A client of the same Valkey that may do everything, for what a server never does."""
    async with Redis.from_url(valkey_server.url) as client:
        yield client


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of ``store_url`` runs on every kind of store; one that wants the server itself on those that are one."""
    if "store_kind" in metafunc.fixturenames:
        is_single = "store_server" in metafunc.fixturenames
        metafunc.parametrize("store_kind", [*stores.SINGLE_STORES, *([] if is_single else [stores.CLUSTER])])


@pytest.fixture
def store_server(request: pytest.FixtureRequest, store_kind: str) -> ValkeyProcess:
    """An empty store: the test runs on Valkey, and again on Redis 7 where that is installed."""
    server = request.getfixturevalue(f"{store_kind}_process")
    assert isinstance(server, ValkeyProcess)
    stores.empty(server)
    return server


@pytest.fixture
def store_url(request: pytest.FixtureRequest, store_kind: str) -> str:
    """URL of an empty store, for a server's user: on Valkey, on Redis 7 where that is there, on a Valkey Cluster."""
    store = request.getfixturevalue("cluster" if store_kind == stores.CLUSTER else "store_server")
    return stores.as_user(store.url, stores.SERVER_USER)


@pytest.fixture
async def postgres_url(postgres_process: PostgresProcess) -> AsyncIterator[str]:
    """URL of a migrated, empty database of this test, for a server's role; dropped at its end."""
    name = f"test_{uuid4().hex[:12]}"
    url = await postgres_process.create_database(name, template=stores.TEMPLATE_DATABASE)
    yield stores.as_user(url, stores.SERVER_ROLE)
    await postgres_process.drop_database(name)


@pytest.fixture
def superuser_url(postgres_process: PostgresProcess, postgres_url: str) -> str:
    """URL of the same database for one who may do everything, for what a server never does."""
    return postgres_process.url_of(urlsplit(postgres_url).path.removeprefix("/"))
