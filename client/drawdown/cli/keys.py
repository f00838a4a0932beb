"""``drawdown key``: the credentials of the tenant."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from drawdown import ApiKey, ApiKeyResult, Scope
from drawdown.cli.output import first, in_words, time
from drawdown.cli.session import LIMIT_DEFAULT, Limit, Session, command, noun
from drawdown.cli.values import TIME_HELP, parse_duration, parse_time

app = noun("API keys: who may call, and what. A secret is shown once, when it is made.")

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key's id.")]


class May(StrEnum):
    """The scopes as people type them."""

    AUTHORIZE = "authorize"
    READ = "read"
    WALLETS = "wallets"
    FUNDS = "funds"
    ADMIN = "admin"


@command(app, "create")
def create(
    session: Session,
    key_id: KeyArgument,
    *,
    scope: Annotated[list[May], typer.Option("--scope", help="What it may do; may be repeated.")],
    name: Annotated[str, typer.Option("--name", help="A name for people.")] = "",
    expires: Annotated[
        str | None, typer.Option("--expires", help=f"When it ends: {TIME_HELP}. [default: never]")
    ] = None,
) -> None:
    """Creates a key and shows its secret, this once. It can get no scope that your own key lacks."""
    result = session.client.create_api_key(
        key_id=key_id,
        scopes=[Scope[each.name] for each in scope],
        display_name=name,
        expire_time=None if expires is None else parse_time(expires, datetime.now(UTC)),
    )
    _show(session, result, "this key was made before, and its secret shown then; drawdown key rotate makes another")


@command(app, "rotate")
def rotate(
    session: Session,
    key_id: KeyArgument,
    *,
    overlap: Annotated[
        str | None, typer.Option("--overlap", help="How long the old secret goes on, 0s or 12h. [default: 24h]")
    ] = None,
    rotation_id: Annotated[
        str | None, typer.Option("--id", help="Your id for this rotation. [default: a random one]")
    ] = None,
) -> None:
    """Gives a key another secret and shows it, this once; the old one goes on for the overlap."""
    result = session.client.rotate_api_key(
        key_id=key_id,
        rotation_id=session.id_or_new("--id", rotation_id),
        overlap_s=None if overlap is None else parse_duration(overlap),
    )
    _show(session, result, "this rotation was made before, and its secret shown then; another --id makes another")


@command(app, "revoke")
def revoke(session: Session, key_id: KeyArgument) -> None:
    """Ends a key for ever, within seconds on every server."""
    key = session.client.revoke_api_key(key_id=key_id)
    if session.out.as_json:
        session.out.json(key)
    else:
        session.out.facts(_facts(key))


@command(app, "list")
def list_all(session: Session, *, limit: Limit = LIMIT_DEFAULT) -> None:
    """Lists keys by id, those that ended too. A secret begins with ddk_ and what stands under SECRETS."""
    keys, more = first(session.client.iter_api_keys(), limit)
    if session.out.as_json:
        session.out.json_list("keys", keys, more=more)
        return
    now = datetime.now(UTC)
    session.out.table(
        ["KEY", "SCOPES", "STATE", "EXPIRES", "SECRETS", "NAME"],
        (
            [
                key.key_id,
                _scopes(key),
                _state(key, now),
                in_words(key.expire_time, now),
                " ".join(secret.secret_id for secret in key.secrets) or "-",
                key.display_name,
            ]
            for key in keys
        ),
    )
    session.out.cut(limit, more=more)


def _show(session: Session, result: ApiKeyResult, replayed: str) -> None:
    if session.out.as_json:
        session.out.json(result)
        return
    session.out.facts(_facts(result.key))
    session.out.line()
    session.out.line(replayed if result.replayed else f"secret, shown this once: {result.secret}")


def _facts(key: ApiKey) -> dict[str, str]:
    facts = {
        "key": key.key_id,
        "name": key.display_name or "-",
        "scopes": _scopes(key),
        "state": _state(key, datetime.now(UTC)),
        "created": time(key.create_time),
        "expires": time(key.expire_time) if key.expire_time else "never",
    }
    for secret in key.secrets:
        if secret.expire_time is not None:
            facts[f"old secret {secret.secret_id}"] = f"until {time(secret.expire_time)}"
    return facts


def _scopes(key: ApiKey) -> str:
    return ",".join(scope.lower() for scope in key.scopes)


def _state(key: ApiKey, now: datetime) -> str:
    if key.revoke_time is not None:
        return "revoked"
    return "expired" if key.expire_time is not None and key.expire_time <= now else "active"
