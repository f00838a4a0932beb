"""The command line: ``drawdown-server`` and a command, of which --help lists all.

All but ``new-token-key``, ``dev`` and ``demo`` take every setting of ``config.py`` as a flag; the last two need nothing
installed but this package.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import structlog
import typer
import uvloop
from pydantic import ValidationError

from drawdown_server.app import flush as run_flush
from drawdown_server.app import serve as run_serve
from drawdown_server.commands.check_config import run_check_config
from drawdown_server.commands.create_key import run_create_key
from drawdown_server.commands.dead_letters import run_dead_letters
from drawdown_server.commands.rebuild import run_rebuild
from drawdown_server.commands.reconcile import run_reconcile
from drawdown_server.commands.status import run_status
from drawdown_server.commands.workers import run_worker, run_workers
from drawdown_server.config import Config, new_token_key
from drawdown_server.errors import ConfigurationError, DrawdownError
from drawdown_server.garbage import keep_what_is_loaded
from drawdown_server.identity.scopes import Scope
from drawdown_server.ledger.migrations import migrate as run_migrations
from drawdown_server.ledger.rights import grant_rights
from drawdown_server.telemetry.logs import configure_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

commands = typer.Typer(
    help="The Drawdown server: may this customer spend this, now?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_SETTINGS_AS_FLAGS: Final = {"allow_extra_args": True, "ignore_unknown_options": True}


@commands.command(context_settings=_SETTINGS_AS_FLAGS, add_help_option=False)
def serve(context: typer.Context) -> None:
    """Serve Authorize, Commit and Release."""
    config = _config(context)
    if config.workers == 1:
        _run(run_serve(config, on_ready=lambda _: keep_what_is_loaded()))
    else:
        _run(run_workers(config, context.args), run=asyncio.run)  # whose way to start processes forks nothing


@commands.command(context_settings=_SETTINGS_AS_FLAGS, add_help_option=False, hidden=True)
def worker(
    context: typer.Context,
    worker_index: Annotated[int, typer.Option()],
    worker_link: Annotated[int, typer.Option()],
) -> None:
    """Serve as one of the processes of serve --workers, which starts it."""
    config = _config(context)
    structlog.contextvars.bind_contextvars(worker=worker_index)
    _run(run_worker(config, index=worker_index, link=worker_link))


@commands.command(context_settings=_SETTINGS_AS_FLAGS, add_help_option=False)
def flush(context: typer.Context) -> None:
    """Run the flusher and the sweep of due holds alone, beside servers started with --no-flusher."""
    _run(run_flush(_config(context)))


@commands.command(context_settings=_SETTINGS_AS_FLAGS, add_help_option=False)
def migrate(context: typer.Context) -> None:
    """Bring the database's schema, and the rights of its roles, up to date."""
    config = _config(context)

    async def run() -> None:
        applied = await run_migrations(config.postgres_url)
        typer.echo("\n".join(f"applied {name}" for name in applied) or "nothing to do")
        for role in await grant_rights(config.postgres_url):
            typer.echo(f"{role} has its rights")

    _run(run())


@commands.command("check-config", context_settings=_SETTINGS_AS_FLAGS, add_help_option=False)
def check_config(context: typer.Context) -> None:
    """Print every setting, secrets masked, and all that would keep a server from starting; then exit status 1."""
    _run(run_check_config(_config(context)))


@commands.command("new-token-key")
def print_new_token_key() -> None:
    """Print a new key for DRAWDOWN_HOLD_TOKEN_KEYS, or a new pepper for DRAWDOWN_API_KEY_PEPPER."""
    typer.echo(new_token_key())


@commands.command("create-key", context_settings=_SETTINGS_AS_FLAGS)
def create_key(
    context: typer.Context,
    tenant: Annotated[str, typer.Option(help="Whose key it is.")],
    key_id: Annotated[str, typer.Option(help="The tenant's id for it.")] = "bootstrap",
    scopes: Annotated[str, typer.Option(help="What it may do.")] = ",".join(Scope),
) -> None:
    """Create an API key of a tenant and print it; the first one, with which `drawdown key create` makes others.

    It cannot give another key a scope that it lacks itself.

    Also takes every setting as a flag: see drawdown-server serve --help.
    """
    _run(run_create_key(_config(context), tenant_id=tenant, key_id=key_id, scopes=scopes))


_Tenant = Annotated[str, typer.Option(help="Only of this tenant.")]
_Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@commands.command(context_settings=_SETTINGS_AS_FLAGS)
def reconcile(
    context: typer.Context,
    tenant: _Tenant = "",
    wallet: Annotated[str, typer.Option(help="Only this wallet.")] = "",
    as_json: _Json = False,
) -> None:
    """Compare every wallet in Valkey with the ledger; exit status 1 when something differs. Changes nothing.

    Also takes every setting as a flag: see drawdown-server serve --help.
    """
    _run(run_reconcile(_config(context), tenant_id=tenant, wallet_id=wallet, as_json=as_json))


@commands.command(context_settings=_SETTINGS_AS_FLAGS)
def rebuild(
    context: typer.Context,
    partition: Annotated[list[int] | None, typer.Option(min=0, help="Its number; again for more.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every partition.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what a server would do, and why.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: _Json = False,
) -> None:
    """Begin a new epoch of partitions: their wallets load again from the ledger. Open holds are lost.

    Servers may run. Also takes every setting as a flag: see drawdown-server serve --help.
    """
    _run(
        run_rebuild(
            _config(context),
            partitions=partition or [],
            everything=everything,
            dry_run=dry_run,
            yes=yes,
            as_json=as_json,
        )
    )


@commands.command(context_settings=_SETTINGS_AS_FLAGS)
def status(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Every partition, not only those with a problem.")] = False,
    as_json: _Json = False,
) -> None:
    """Show partitions, epochs, what waits for the ledger, leases and dead letters; exit status 1 if anything is wrong.

    Reads only. Also takes every setting as a flag: see drawdown-server serve --help.
    """
    _run(run_status(_config(context), everything=everything, as_json=as_json))


@commands.command("dead-letters", context_settings=_SETTINGS_AS_FLAGS)
def dead_letters(context: typer.Context, as_json: _Json = False) -> None:
    """List the events that could not be recorded, with what they say and why.

    Also takes every setting as a flag: see drawdown-server serve --help.
    """
    _run(run_dead_letters(_config(context), as_json=as_json))


@commands.command()
def dev(
    data_dir: Annotated[Path, typer.Option(help="Where the embedded stores keep their data.")] = Path(".drawdown"),
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve on; 0 takes a free one.")] = 50051,
    valkey_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of Valkey; 0 takes a free one.")] = 0,
    postgres_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of Postgres; 0 takes a free one.")] = 0,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what is kept in --data-dir first.")] = False,
) -> None:
    """Serve on an embedded Valkey and Postgres, with demo assets and a funded wallet.

    DRAWDOWN_VALKEY_URL and DRAWDOWN_POSTGRES_URL replace the embedded servers by your own.
    """
    from drawdown_server.dev.run import Ports, run_dev  # noqa: PLC0415  # needs the extra [embedded]

    ports = Ports(grpc=grpc_port, valkey=valkey_port, postgres=postgres_port)
    _run(run_dev(data_dir, ports, fresh=fresh))


@commands.command()
def demo(
    trace: Annotated[Path | None, typer.Option(help="CSV file: TIMESTAMP,ContextTokens,GeneratedTokens.")] = None,
    wallets: Annotated[int, typer.Option(min=1, max=10_000, help="Customers; one in four is too poor.")] = 200,
    concurrency: Annotated[int, typer.Option(min=1, max=1_000, help="Requests in flight.")] = 64,
    seed: Annotated[int, typer.Option(help="Decides who asks for what, and who is poor.")] = 1,
    requests: Annotated[int | None, typer.Option(min=1, help="Only the first so many of the trace.")] = None,
) -> None:
    """Replay LLM requests as a gateway would, on an embedded stack of its own, and check the books.

    The last line on stdout is "demo: {json}"; the exit status is 1 when a single unit is not accounted for.
    """
    from drawdown_server.dev.demo import DemoOptions, run_demo  # noqa: PLC0415  # needs the extra [embedded]
    from drawdown_server.dev.trace import DEFAULT_TRACE  # noqa: PLC0415

    options = DemoOptions(
        trace=trace or DEFAULT_TRACE, wallets=wallets, concurrency=concurrency, seed=seed, requests=requests
    )
    _run(run_demo(options))


def _config(context: typer.Context) -> Config:
    """The settings from the environment and from flags."""
    try:
        config = Config.from_flags(context.args, program=context.command_path)
    except ValidationError as error:
        raise _bad_settings(error) from None
    configure_logs(config.log_level, config.log_format)
    return config


def _bad_settings(error: ValidationError) -> typer.Exit:
    """Say which settings break which rule."""
    for problem in error.errors():
        name = "_".join(str(part) for part in problem["loc"])
        typer.echo(f"error: DRAWDOWN_{name.upper()}: {problem['msg']}", err=True)
    return typer.Exit(EXIT_USAGE)


def _run(
    work: Coroutine[None, None, int | None],
    *,
    run: Callable[[Coroutine[None, None, int | None]], int | None] = uvloop.run,
) -> None:
    """Run to the end; what the user can mend is one line, not a traceback."""
    try:
        code = run(work)
    except ValidationError as error:
        raise _bad_settings(error) from None
    except (ConfigurationError, DrawdownError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(EXIT_FAILED) from None
    if code:
        raise typer.Exit(code)


def main() -> None:
    """Entry point of ``drawdown-server``."""
    commands(prog_name="drawdown-server")


if __name__ == "__main__":
    main()
