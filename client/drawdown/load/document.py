"""A run as JSON. README.md beside this file documents every field; ``VERSION`` grows when one changes its meaning.

Units are in the names: ``_s`` seconds, ``_ms`` milliseconds, ``_per_s``, ``_percent``, ``_units`` of an asset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from drawdown.load.result import versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drawdown.load.assertions import Judged
    from drawdown.load.histogram import Histogram
    from drawdown.load.recording import Interval
    from drawdown.load.result import Result

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

VERSION: Final = 1
PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)


def document(result: Result, judged: Sequence[Judged]) -> dict[str, Json]:
    """Everything about a run."""
    recording = result.recording
    return {
        "version": VERSION,
        "run_id": result.plan.run_id,
        "began_time": result.began.isoformat().replace("+00:00", "Z"),
        "is_passed": result.is_conserved and all(one.holds for one in judged),
        "is_stopped_early": result.is_stopped_early,
        "settings": settings(result),
        "versions": dict(versions()),
        "measured_s": round(result.measured_s, 3),
        "requests": {
            "begun": recording.begun,
            "rate_per_s": round(result.request_rate, 3),
            "held_back": recording.held_back,
            "unsent": recording.unsent,
        },
        "calls": [
            {"call": call, "rate_per_s": round(result.call_rate(call), 3), **latency(histogram)}
            for call, histogram in result.latency.items()
        ],
        "all_calls": {"rate_per_s": round(result.call_rate(), 3), **latency(result.all_calls)},
        "errors": [
            {"call": call, "code": code, "reason": reason, "count": count}
            for (call, code, reason), count in recording.errors.most_common()
        ],
        "denials": [
            {"call": call, "reason": reason, "count": count}
            for (call, reason), count in recording.denials.most_common()
        ],
        "replayed": {str(call): count for call, count in recording.replayed.items()},
        "warmup_errors": recording.warmup_errors,
        "over_time": [
            {"begin_s": round(number * result.plan.interval_s, 3), **_point(interval)}
            for number, interval in sorted(recording.intervals.items())
        ],
        "generator": {
            "start_lag_ms": _milliseconds(recording.start_lag),
            "loop_lag_ms": _milliseconds(recording.loop_lag),
            "late_starts_percent": round(result.late_start_percent, 4),
            "cpu_percent_by_process": [round(100 * share, 1) for share in result.cpu_shares],
        },
        "conservation": {
            "is_checked": result.books is not None,
            "is_conserved": result.is_conserved,
            "unread": result.unread,
            "assets": [
                {
                    "asset": line.asset,
                    "debited_units": line.debited_units,
                    "fallen_units": line.fallen_units,
                    "held_more_units": line.held_more_units,
                }
                for line in result.conservation
            ],
            "released_at_end": recording.released_at_end,
            "sent_again_at_end": recording.sent_again,
            "unsettled": dict(recording.unsettled),
        },
        "assertions": [{"assertion": one.text, "value": one.value, "holds": one.holds} for one in judged],
        "warnings": list(result.warnings),
    }


def settings(result: Result) -> dict[str, Json]:
    """What the run was told to do; no credential is among it."""
    plan = result.plan
    replay: Json = None
    if plan.replay is not None:
        replay = {
            "trace": plan.replay.name,
            "requests": len(plan.replay.rows),
            "speed": plan.replay.speed,
            "price_units_per_token": {
                asset: {"context": price.context_units, "generated": price.generated_units}
                for asset, price in plan.replay.prices.items()
            },
        }
    return {
        "target": result.connection.target,
        "timeout_s": result.connection.timeout_s,
        "loop": plan.loop,
        "load": None if plan.shape is None else str(plan.shape),
        "replay": replay,
        "arrivals": plan.arrivals,
        "warmup_s": plan.warmup_s,
        "duration_s": plan.duration_s,
        "processes": plan.processes,
        "in_flight_max": plan.in_flight_max,
        "wallets": len(plan.wallets),
        "first_wallet": plan.wallets[0],
        "skew": plan.skew,
        "mix": str(plan.mix),
        "hold_units": None if plan.replay else dict(plan.held),
        "used_percent": None if plan.replay else list(plan.used_percent),
        "think_s": plan.think_s,
        "ttl_s": plan.ttl_s,
        "seed": plan.seed,
        "settle_s": plan.settle_s,
        "interval_s": plan.interval_s,
    }


def latency(histogram: Histogram) -> dict[str, Json]:
    """Count and latencies in milliseconds."""
    return {"count": histogram.count, "latency_ms": _milliseconds(histogram)}


def percentile_name(percent: float) -> str:
    """``p99.9``."""
    return f"p{percent:g}"


def _milliseconds(histogram: Histogram) -> dict[str, Json]:
    found: dict[str, Json] = {"mean": round(histogram.mean_ns / 1e6, 6)}
    for percent in PERCENTILES:
        found[percentile_name(percent)] = histogram.percentile_ns(percent) / 1e6
    return found | {"max": histogram.max_ns / 1e6}


def _point(interval: Interval) -> dict[str, Json]:
    ended: dict[str, Json] = {}
    for (_, outcome), count in interval.ended.items():
        ended[outcome] = count + int(str(ended.get(outcome, 0)))
    return {
        "requests": interval.begun,
        "ended": ended,
        "latency_ms": {
            str(call): {
                "count": histogram.count,
                "p50": histogram.percentile_ns(50) / 1e6,
                "p99": histogram.percentile_ns(99) / 1e6,
                "max": histogram.max_ns / 1e6,
            }
            for call, histogram in interval.latency.items()
        },
    }
