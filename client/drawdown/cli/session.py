"""What every command shares: the options, the client, the way errors end."""

from __future__ import annotations

import inspect
import json
import re
import sys
import uuid
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Concatenate, Final, NoReturn, ParamSpec, cast

import typer

from drawdown import (
    TARGET_DEFAULT,
    Client,
    DeadlineExceededError,
    DrawdownError,
    InvalidRequestError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    tls_credentials,
)
from drawdown.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

P = ParamSpec("P")

TIMEOUT_S_DEFAULT: Final = 5.0
"""People wait longer than gateways do."""

EXIT_ERROR: Final = 1
EXIT_DENIED: Final = 3

HELP: Final = """Prepaid wallets: authorize, commit, release, and everything around them.

An AMOUNT is decimal and asset, '12.50 USD', by the asset's scale; or exact units with a u, '12500000u USD'. Quotes may
be left out.

Exit codes: 0 done or approved, 1 error, 2 wrong usage, 3 denied.

--target, --timeout and --json may stand before or after the command, the others before it.
"""

TARGET_ENVIRONMENT: Final = "DRAWDOWN_TARGET"
_TARGET_HELP: Final = f"Server, host:port. [default: {TARGET_DEFAULT}]"
RootTarget = Annotated[str | None, typer.Option("--target", envvar=TARGET_ENVIRONMENT, help=_TARGET_HELP)]
# Not from the environment a second time: that would beat a --target before the command.
CommandTarget = Annotated[
    str | None, typer.Option("--target", help=f"{_TARGET_HELP} [env var: {TARGET_ENVIRONMENT}]", show_default=False)
]
TimeoutOption = Annotated[
    float | None, typer.Option("--timeout", help=f"Deadline of each call in seconds. [default: {TIMEOUT_S_DEFAULT:g}]")
]
TlsOption = Annotated[bool, typer.Option("--tls", envvar="DRAWDOWN_TLS", help="TLS, trusting the public roots.")]
TlsCa = Annotated[
    Path | None,
    typer.Option("--tls-ca", envvar="DRAWDOWN_TLS_CA", help="TLS, trusting the roots in this PEM file instead."),
]
# Not DRAWDOWN_TLS_CERTIFICATE: that is the server's own, and both may run in one container.
ClientCertificate = Annotated[
    Path | None,
    typer.Option(
        "--client-certificate",
        envvar="DRAWDOWN_CLIENT_CERTIFICATE",
        help="PEM file of a certificate of ours, for a server that asks for one.",
    ),
]
ClientKey = Annotated[
    Path | None, typer.Option("--client-key", envvar="DRAWDOWN_CLIENT_KEY", help="PEM file of its private key.")
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option("--api-key", envvar="DRAWDOWN_API_KEY", help="What says who you are: ddk_..."),
]
PlaintextApiKey = Annotated[
    bool,
    typer.Option(
        "--plaintext-api-key",
        envvar="DRAWDOWN_PLAINTEXT_API_KEY",
        help="Send it without TLS to another machine all the same.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine output: units as integers, amounts as decimal texts.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="Most rows.")]
LIMIT_DEFAULT: Final = 100


def noun(help_text: str) -> typer.Typer:
    """A group of commands."""
    # Plain text throughout: boxes and colours are in the way of pipes and narrow terminals.
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


app = noun(HELP)


@dataclass(frozen=True, slots=True)
class Tls:
    """The options of TLS, as given."""

    on: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials | None:
        """For the client; None means plain text.

        Raises:
            typer.BadParameter: A file cannot be read, or a certificate has no key.
        """
        if not (self.on or self.ca or self.certificate or self.key):
            return None
        try:
            return tls_credentials(self.ca, certificate=self.certificate, key=self.key)
        except OSError as error:
            raise typer.BadParameter(f"{error.filename}: {error.strerror}", param_hint="TLS") from error
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--client-certificate, --client-key") from error


@dataclass(frozen=True, slots=True)
class Options:
    """The options of every command, as given."""

    target: str | None = None
    timeout_s: float | None = None
    json: bool = False
    tls: Tls = Tls()
    api_key: str | None = None
    plaintext_api_key: bool = False


class Session:
    """One run of one command."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.repeat_with = ""
        """The option that makes this call the same one again, when its id was made up."""

    @cached_property
    def client(self) -> Client:
        """The client; it connects with its first call."""
        timeout_s = self.options.timeout_s
        credentials = self.options.tls.credentials()
        try:
            return Client(
                self.options.target or TARGET_DEFAULT,
                timeout_s=TIMEOUT_S_DEFAULT if timeout_s is None else timeout_s,
                credentials=credentials,
                api_key=self.options.api_key,
                plaintext_api_key=self.options.plaintext_api_key,
            )
        except ValueError as error:
            hint = "--timeout" if "timeout" in str(error) else "--api-key"
            message = str(error).replace("plaintext_api_key=True", "--plaintext-api-key")
            raise typer.BadParameter(message.replace("TLS credentials", "--tls"), param_hint=hint) from error

    def close(self) -> None:
        """Closes the client, if there is one."""
        if "client" in self.__dict__:  # where cached_property keeps it
            self.client.close()

    @cached_property
    def out(self) -> Output:
        """Where results go."""
        return Output(scale=self._scale_to_show, as_json=self.options.json)

    def id_or_new(self, option: str, given: str | None) -> str:
        """The id that was given, or a random one, which the error of a lost answer then names."""
        if given is not None:
            return given
        new = uuid.uuid4().hex
        self.repeat_with = f"{option} {new}"
        return new

    @cached_property
    def _scales(self) -> dict[str, int | None]:
        return {}

    def scale(self, asset: str) -> int | None:
        """Decimal places of an asset, None when there is no such asset; asked for once."""
        if asset not in self._scales:
            try:
                self._scales[asset] = self.client.get_asset(asset=asset).scale
            except (NotFoundError, InvalidRequestError):  # invalid: the text cannot be the code of any asset
                self._scales[asset] = None
        return self._scales[asset]

    def _scale_to_show(self, asset: str) -> int | None:
        """The same, for what is known already: an answer is shown, in units, although the asset cannot be looked at.

        The key of a gateway, and the token of a wallet, may not.
        """
        try:
            return self.scale(asset)
        except DrawdownError:
            self._scales[asset] = None
            return None


@app.callback()
def _root(
    ctx: typer.Context,
    *,
    target: RootTarget = None,
    timeout: TimeoutOption = None,
    as_json: AsJson = False,
    tls: TlsOption = False,
    tls_ca: TlsCa = None,
    client_certificate: ClientCertificate = None,
    client_key: ClientKey = None,
    api_key: ApiKeyOption = None,
    plaintext_api_key: PlaintextApiKey = False,
) -> None:
    ctx.obj = Options(
        target, timeout, as_json, Tls(tls, tls_ca, client_certificate, client_key), api_key, plaintext_api_key
    )


def _parameter(name: str, annotation: object, default: object = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_SHARED: Final = (
    _parameter("ctx", typer.Context),
    _parameter("target", CommandTarget, None),
    _parameter("timeout", TimeoutOption, None),
    _parameter("as_json", AsJson, default=False),
)
"""The options of every command, again after its name."""


def command(
    group: typer.Typer, name: str
) -> Callable[[Callable[Concatenate[Session, P], None]], Callable[Concatenate[Session, P], None]]:
    """Registers a command: gives it a Session in place of ctx and the shared options, and ends its errors cleanly."""

    def register(function: Callable[Concatenate[Session, P], None]) -> Callable[Concatenate[Session, P], None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        body = cast("Callable[..., None]", function)

        def run(
            ctx: typer.Context, target: str | None, timeout: float | None, as_json: bool, **arguments: object
        ) -> None:
            given = cast("Options", ctx.find_root().obj)
            session = Session(
                replace(
                    given,
                    target=given.target if target is None else target,
                    timeout_s=given.timeout_s if timeout is None else timeout,
                    json=given.json or as_json,
                )
            )
            try:
                body(session, **arguments)
            except DrawdownError as error:
                _fail(error, session)
            finally:
                session.close()

        # typer builds the command from the signature: the command's own parameters, then the shared ones.
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *_SHARED)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        group.command(name, help=function.__doc__)(run)
        return function

    return register


def _fail(error: DrawdownError, session: Session) -> NoReturn:
    """One line on stderr, exit code 1. When the call may have worked: how to send the same one again."""
    options = session.options
    repeat_with = session.repeat_with if isinstance(error, UnavailableError | DeadlineExceededError) else ""
    violations = error.violations if isinstance(error, InvalidRequestError) else ()
    if options.json:
        document: dict[str, object] = {
            "error": {
                "code": error.code.name,
                "reason": error.reason,
                "message": error.message,
                "metadata": dict(error.metadata),
                "violations": [violation._asdict() for violation in violations],
            }
        }
        if repeat_with:
            document["repeat_with"] = repeat_with
        sys.stderr.write(json.dumps(document, ensure_ascii=False) + "\n")
    else:
        message = "; ".join(f"{v.field} {v.description}".strip() for v in violations) or _in_decimals(error, session)
        if isinstance(error, UnavailableError) and not error.reason:  # gRPC's own: nobody answered at that address
            message = f"cannot reach {options.target or TARGET_DEFAULT}: {message}"
        hint = f"; it may have happened: to repeat the same call, add {repeat_with}" if repeat_with else ""
        if isinstance(error, UnauthenticatedError):
            hint = "; give an API key with --api-key or DRAWDOWN_API_KEY"
        sys.stderr.write(f"error: {' '.join(message.split())}{hint}\n")
    raise typer.Exit(EXIT_ERROR)


def _in_decimals(error: DrawdownError, session: Session) -> str:
    """The message of an error about one asset with amounts as people write them: ``5.00 USD``, not 5000000 units."""
    message, asset = error.message, error.metadata.get("asset", "")
    try:
        known = bool(asset) and session.scale(asset) is not None
    except DrawdownError:
        return message  # the server is not there to ask
    for name, value in error.metadata.items() if known else ():
        if name.endswith("units") and value.isdecimal():
            decimal = session.out.decimal(int(value), asset)
            message = re.sub(rf"\b{value} units of {asset}\b", f"{decimal} {asset}", message)
            message = re.sub(rf"\b{value}\b", decimal, message)
    return message
