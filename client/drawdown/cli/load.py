"""``drawdown load``: a load test, with a report."""

from __future__ import annotations

import json
import random
import re
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from drawdown import TARGET_DEFAULT, TIMEOUT_S_DEFAULT
from drawdown.cli.session import EXIT_ERROR, Session, command
from drawdown.cli.values import parse_amount
from drawdown.load import plan as limits
from drawdown.load.assertions import parse
from drawdown.load.connection import Connection, TlsFiles
from drawdown.load.document import document
from drawdown.load.mix import parse_mix
from drawdown.load.page import page
from drawdown.load.plan import Arrivals, Loop, Plan, Price, Replay
from drawdown.load.progress import Lines, Quiet
from drawdown.load.run import LoadError, run
from drawdown.load.shape import parse_seconds, parse_shape
from drawdown.load.text import lines
from drawdown.load.trace import arrivals as arrivals_of
from drawdown.load.trace import read_trace
from drawdown.load.wallets import ASSET_DEFAULT, WalletsError, names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from drawdown.load.assertions import Judged
    from drawdown.load.result import Result
    from drawdown.load.shape import Shape

AMOUNT_DEFAULT: Final = f"1000u {ASSET_DEFAULT}"
PRICE_DEFAULT: Final = f"{ASSET_DEFAULT}=1,1"
FUND_UNITS_DEFAULT: Final = 10**12
"""A million dollars at scale 6: no run is to end because a wallet is empty, unless --fund says so."""
DURATION_DEFAULT: Final = "30s"
PERCENT_MAX: Final = 1_000
"""Of what was held: more than 100 shows what the overage policy does."""
SEED_BELOW: Final = 2**31
LAST_ARRIVAL_S: Final = 0.001
"""By which the last request of a trace is still within the run."""

_PRICE: Final = re.compile(r"([A-Z][A-Z0-9_]{0,31})=([0-9]{1,9}),([0-9]{1,9})", re.ASCII)
_PERCENTS: Final = re.compile(r"([0-9]{1,4})(?:\.\.([0-9]{1,4}))?", re.ASCII)

_SHAPE_HELP: Final = "500; 100..2000 for a straight line; 100..2000:60s,2000:5m for one part after the other."
RateOption = Annotated[
    str | None,
    typer.Option("--rate", metavar="LOAD", help=f"Open loop: requests per second come at their times. {_SHAPE_HELP}"),
]
ConcurrencyOption = Annotated[
    str | None,
    typer.Option("--concurrency", metavar="LOAD", help="Closed loop: so many gateways, one request each at a time."),
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        help="Replays a file of LLM requests: CSV with TIMESTAMP, ContextTokens, GeneratedTokens. With --rate or "
        "--concurrency only its amounts.",
    ),
]
SpeedOption = Annotated[
    float, typer.Option("--speed", min=0.01, max=limits.SPEED_MAX, help="Of the trace: 10 takes a tenth of its time.")
]
PriceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--price",
        metavar="ASSET=CONTEXT,GENERATED",
        help=f"Units that a token of the trace costs; may be repeated. [default: {PRICE_DEFAULT}]",
    ),
]
DurationOption = Annotated[
    str | None,
    typer.Option("--duration", metavar="TIME", help="What is measured, or the most of a trace. [default: 30s]"),
]
WarmupOption = Annotated[
    str, typer.Option("--warmup", metavar="TIME", help="Before that: the load rises, nothing is measured.")
]
ArrivalsOption = Annotated[Arrivals, typer.Option("--arrivals", help="How requests of --rate are spread over time.")]
ProcessesOption = Annotated[
    int, typer.Option("--processes", min=1, max=limits.PROCESSES_MAX, help="That share the load; about one a core.")
]
InFlightOption = Annotated[
    int,
    typer.Option(
        "--in-flight",
        min=1,
        max=limits.IN_FLIGHT_MAX,
        help="Open loop: requests in flight at most. One more waits, and the time counts as its latency.",
    ),
]
WalletsOption = Annotated[
    int, typer.Option("--wallets", min=1, max=limits.WALLETS_MAX, help="How many: PREFIX-00001 and so on.")
]
PrefixOption = Annotated[str, typer.Option("--prefix", help="Of the wallets' ids.")]
WalletOption = Annotated[
    list[str] | None, typer.Option("--wallet", help="This wallet instead of --wallets; may be repeated.")
]
CreateOption = Annotated[
    bool, typer.Option("--create", help="Makes wallets that are not there, and funds them; needs the rights to.")
]
FundOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fund",
        metavar="AMOUNT",
        help="With --create: what each wallet has available at the beginning; may be repeated. "
        f"[default: {FUND_UNITS_DEFAULT:,} units of each asset]",
    ),
]
SkewOption = Annotated[
    float,
    typer.Option(
        "--skew", min=0, max=limits.SKEW_MAX, help="Zipf: the n-th wallet is used 1/n^SKEW as often as the first."
    ),
]
MixOption = Annotated[
    str,
    typer.Option(
        "--mix",
        metavar="SHARES",
        help="What requests do: commit, release, hold (open to the end), charge, balance, with shares.",
    ),
]
AmountOption = Annotated[
    list[str] | None,
    typer.Option(
        "--amount",
        metavar="AMOUNT",
        help=f"What a request authorizes; may be repeated for several assets. [default: {AMOUNT_DEFAULT}]",
    ),
]
UsedOption = Annotated[
    str, typer.Option("--used", metavar="PERCENT", help="What a commit uses of that: 60, or 20..100 at random.")
]
ThinkOption = Annotated[
    str, typer.Option("--think", metavar="TIME", help="From Authorize's answer to Commit: the customer's request.")
]
TtlOption = Annotated[
    str | None, typer.Option("--ttl", metavar="TIME", help="Of holds. [default: the server's, 5 minutes]")
]
SettleOption = Annotated[
    str,
    typer.Option(
        "--settle",
        metavar="TIME",
        help="How long a server that does not answer is asked to settle what is open at the end.",
    ),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, help="The same seed draws the same requests. [default: a random one]")
]
CheckOption = Annotated[
    bool,
    typer.Option(
        "--check/--no-check",
        help="Whether the balances are read before and after: they must fall by exactly what was debited. Not when "
        "others use the same wallets, or with a key that may not read.",
    ),
]
AssertOption = Annotated[
    list[str] | None,
    typer.Option(
        "--assert",
        metavar="ASSERTION",
        help="Exit code 1 unless it holds: 'p99<5ms', 'commit.p99.9<20ms', 'rate>=495', 'errors==0', "
        "'error_rate<0.1%'; may be repeated.",
    ),
]
HtmlOption = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Writes a report with plots.")]
SaveOption = Annotated[Path | None, typer.Option("--save", metavar="FILE", help="Writes the results as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress.")]


def register(app: typer.Typer) -> None:
    """Adds the command to the top level."""
    command(app, "load")(load)


def load(
    session: Session,
    *,
    rate: RateOption = None,
    concurrency: ConcurrencyOption = None,
    trace: TraceOption = None,
    speed: SpeedOption = 1.0,
    price: PriceOption = None,
    duration: DurationOption = None,
    warmup: WarmupOption = "0s",
    arrivals: ArrivalsOption = Arrivals.POISSON,
    processes: ProcessesOption = 1,
    in_flight: InFlightOption = limits.IN_FLIGHT_DEFAULT,
    wallets: WalletsOption = 100,
    prefix: PrefixOption = "load",
    wallet: WalletOption = None,
    create: CreateOption = False,
    fund: FundOption = None,
    skew: SkewOption = 1.0,
    mix: MixOption = "commit=90,release=10",
    amount: AmountOption = None,
    used: UsedOption = "20..100",
    think: ThinkOption = "0s",
    ttl: TtlOption = None,
    settle: SettleOption = "30s",
    seed: SeedOption = None,
    check: CheckOption = True,
    asserted: AssertOption = None,
    html: HtmlOption = None,
    save: SaveOption = None,
    quiet: QuietOption = False,
) -> None:
    """Sends load and reports latencies, errors, denials, and whether the money is right.

    One of --rate, --concurrency and --trace is needed. Latencies of --rate and --trace count from when a request was
    due, so a stalled server shows. Every hold is settled at the end. Exit codes: 0 fine, 1 an assertion does not hold,
    the money is wrong or the run failed, 2 wrong usage.

    drawdown load --create --rate 500 --duration 30s --html report.html --assert 'p99<5ms' --assert errors==0
    """
    replay = _replay(trace, speed, price, amount)
    loop, shape, duration_s = _load_shape(rate, concurrency, replay, duration)
    with _usage_of("--mix"):
        flows = parse_mix(mix)
    with _usage_of("--assert"):
        checks = [parse(text) for text in asserted or ()]
    _check_files(html=html, save=save)
    if fund and not create:
        raise typer.BadParameter("it needs --create", param_hint="--fund")
    plan = Plan(
        run_id=f"load-{uuid.uuid4().hex[:12]}",
        loop=loop,
        shape=shape,
        replay=replay,
        arrivals=arrivals,
        warmup_s=_seconds("--warmup", warmup),
        duration_s=duration_s,
        wallets=wallet or names(prefix, wallets),
        skew=skew,
        mix=flows,
        held=_units(session, "--amount", amount or [AMOUNT_DEFAULT]),
        used_percent=_percents(used),
        think_s=_seconds("--think", think),
        ttl_s=None if ttl is None else _seconds("--ttl", ttl),
        in_flight_max=in_flight,
        processes=processes,
        settle_s=_seconds("--settle", settle),
        seed=random.randrange(SEED_BELOW) if seed is None else seed,  # noqa: S311 - a simulation, no secret
    )
    funds = dict.fromkeys(plan.assets, FUND_UNITS_DEFAULT) | _units(session, "--fund", fund or ()) if create else None
    result = _run(session, plan, funds, is_checked=check, quiet=quiet)
    judged = [check.judge(result) for check in checks]
    _write(session, result, judged, html, save)
    if not (result.is_conserved and all(one.holds for one in judged)):
        raise typer.Exit(EXIT_ERROR)


def _run(session: Session, plan: Plan, funds: Mapping[str, int] | None, *, is_checked: bool, quiet: bool) -> Result:
    progress = Quiet() if quiet else Lines(sys.stderr, plan.duration_s)
    try:
        return run(plan, _connection(session), progress, funds=funds, is_checked=is_checked)
    except (LoadError, WalletsError) as error:
        progress.note(f"error: {error}")
        raise typer.Exit(EXIT_ERROR) from None
    finally:
        progress.close()


def _connection(session: Session) -> Connection:
    options = session.options
    # A gateway's deadline, not a person's: what is measured is what a gateway would see.
    timeout_s = TIMEOUT_S_DEFAULT if options.timeout_s is None else options.timeout_s
    session.client  # noqa: B018 - refuses settings that are wrong
    tls = options.tls
    files = TlsFiles(tls.ca, tls.certificate, tls.key) if tls.credentials() else None
    return Connection(
        options.target or TARGET_DEFAULT,
        timeout_s,
        files,
        api_key=options.api_key,
        plaintext_api_key=options.plaintext_api_key,
    )


def _write(session: Session, result: Result, judged: Sequence[Judged], html: Path | None, save: Path | None) -> None:
    """The report on stdout, and in the files that were named."""
    as_json = json.dumps(document(result, judged), indent=2) + "\n"
    if session.options.json:
        sys.stdout.write(as_json)
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines(result, judged)))
    try:
        if html is not None:
            html.write_text(page(result, judged), encoding="utf-8")
        if save is not None:
            save.write_text(as_json, encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"error: {error.filename} cannot be written: {error.strerror}\n")
        raise typer.Exit(EXIT_ERROR) from None


def _check_files(**files: Path | None) -> None:
    """Refuses a file that cannot be written, before the run rather than after it."""
    for option, path in files.items():
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise typer.BadParameter(f"{path} is no file that can be written", param_hint=f"--{option}")


def _load_shape(
    rate: str | None, concurrency: str | None, replay: Replay | None, duration: str | None
) -> tuple[Loop, Shape | None, float]:
    """Which loop, its load over time, and the measured seconds."""
    if rate is not None and concurrency is not None:
        raise typer.BadParameter("it is one or the other", param_hint="--rate, --concurrency")
    duration_s = _seconds("--duration", duration or DURATION_DEFAULT)
    if duration_s <= 0:
        raise typer.BadParameter("it must be above 0", param_hint="--duration")
    for option, text, loop in (("--rate", rate, Loop.OPEN), ("--concurrency", concurrency, Loop.CLOSED)):
        if text is not None:
            with _usage_of(option):
                shape = parse_shape(text, duration_s)
            return loop, shape, shape.seconds
    if replay is None:
        raise typer.BadParameter("say how much: 100, for example", param_hint="--rate, --concurrency or --trace")
    with _usage_of("--trace"):
        whole_s = arrivals_of(replay.rows, replay.speed)[-1] + LAST_ARRIVAL_S
    return Loop.OPEN, None, whole_s if duration is None else min(whole_s, duration_s)


def _replay(trace: Path | None, speed: float, prices: list[str] | None, amounts: list[str] | None) -> Replay | None:
    if trace is None:
        if prices:
            raise typer.BadParameter("it needs --trace", param_hint="--price")
        return None
    if amounts:
        raise typer.BadParameter("amounts come from the trace, by --price", param_hint="--amount")
    with _usage_of("--trace"):
        rows = read_trace(trace)
    return Replay(trace.name, rows, speed, dict(_price(text) for text in prices or [PRICE_DEFAULT]))


def _price(text: str) -> tuple[str, Price]:
    match = _PRICE.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no price such as MODEL_TOKENS=1,1 or USD=3,15", param_hint="--price")
    return match[1], Price(int(match[2]), int(match[3]))


def _percents(text: str) -> tuple[int, int]:
    match = _PERCENTS.fullmatch(text)
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not least <= most <= PERCENT_MAX:
        raise typer.BadParameter(
            f"{text!r} is no percentage such as 60 or 20..100, 0 .. {PERCENT_MAX}", param_hint="--used"
        )
    return least, most


def _units(session: Session, option: str, words: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in words:
        asset, units = parse_amount([text], session.scale)
        if asset in found:
            raise typer.BadParameter(f"{asset} is given twice", param_hint=option)
        found[asset] = units
    return found


def _seconds(option: str, text: str) -> float:
    with _usage_of(option):
        return parse_seconds(text)


@contextmanager
def _usage_of(option: str) -> Iterator[None]:
    """What is wrong with the text of an option is wrong usage."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
