"""Every metric of the server, and one method per thing that is worth counting.

``deploy/METRICS.md`` has the table of them, and a test keeps the two equal. No metric says who the tenant or the wallet
was: their number has no limit. An asset that nobody created is counted as ``_OTHER`` for the same reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from drawdown_server.telemetry.instruments import OTHER, Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from drawdown_server.errors import ErrorReason
    from drawdown_server.telemetry.instruments import Counter

CALL_BOUNDS_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0
)  # fmt: skip
"""The buckets of the semantic conventions, and finer ones below 5 ms, where our calls are."""
SCRIPT_BOUNDS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""From a script alone on the store's machine to the default of ``valkey_timeout_ms``."""
AGE_BOUNDS_S: Final = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0)
"""From a cache's answer to the longest ttl."""
BATCH_BOUNDS: Final = (1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 100_000.0)
"""Up to the largest ``flush_batch_max``."""
GRPC_ERRORS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""Codes that mean an error of the server (semantic conventions for gRPC); the rest is the caller's or an answer."""


class CallCounts(Protocol):
    """What the gate knows of the calls."""

    @property
    def in_flight(self) -> int:
        """Calls that have arrived and are not answered yet."""

    @property
    def abandoned(self) -> Mapping[tuple[str, str], int]:
        """Calls that went on without their caller, by method (without a leading slash) and gRPC's code."""


class KeyCounts(Protocol):
    """What the cache of API keys counts."""

    found_total: int
    unknown_total: int

    @property
    def age_s(self) -> float:
        """Since Postgres last said what has changed."""


class ReloadCounts(Protocol):
    """What somebody knows who follows a file."""

    reloads_total: int
    failures_total: int


class CertificateCounts(ReloadCounts, Protocol):
    """What the server's certificate knows of itself."""

    @property
    def expire_s(self) -> float:
        """When it expires, since the Unix epoch."""


class FlusherCounts(Protocol):
    """What a flusher knows of itself."""

    @property
    def owned_partitions(self) -> Sequence[int]:
        """The partitions whose lease it has."""


class SweeperCounts(Protocol):
    """What a sweeper knows of itself."""

    expired_total: int
    forgotten_total: int


class ReconcilerCounts(Protocol):
    """What a reconciler knows of itself."""

    wallets_total: int
    differences_total: int
    differences: int
    last_run_s: float


class Backlog(Protocol):
    """What waits for the ledger."""

    @property
    def events(self) -> int:
        """Events."""

    @property
    def units(self) -> Mapping[str, int]:
        """Units by asset."""

    @property
    def age_s(self) -> float:
        """Age of the oldest event in seconds."""

    @property
    def dead_letters(self) -> int:
        """Events that could not be recorded, ever."""


class Metrics:
    """The instruments of one process, built once and handed to whoever records."""

    def __init__(self) -> None:
        self.registry = registry = Registry()
        self._calls = registry.histogram(
            "rpc.server.call.duration",
            "s",
            "Time from a call's arrival to its answer.",
            "rpc.system.name",
            "rpc.method",
            "rpc.response.status_code",
            "error.type",
            bounds=CALL_BOUNDS_S,
        )
        self._define_calls(registry)
        self._decisions = registry.counter(
            "drawdown.decisions",
            "{decision}",
            "Answers to authorize, charge and extend; those to a repeated call are in drawdown.replays.",
            "verb",
            "decision",
            "reason",
            "asset",
        )
        self._replays = registry.counter(
            "drawdown.replays", "{call}", "Calls that were answered as their first time.", "verb"
        )
        self._hold_ages = registry.histogram(
            "drawdown.hold.age",
            "s",
            "Age of a hold when its caller settled it.",
            "outcome",
            bounds=AGE_BOUNDS_S,
        )
        self._scripts = registry.histogram(
            "drawdown.script.duration",
            "s",
            "Time from sending a script to the store until its reply.",
            "verb",
            bounds=SCRIPT_BOUNDS_S,
        )
        self._store_in_flight = registry.gauge(
            "drawdown.store.in_flight", "{call}", "Calls to the store that are not answered yet, on the pipelined one."
        )
        self._scripts_abandoned = registry.observed_counter(
            "drawdown.scripts.abandoned",
            "{script}",
            "Scripts and commands whose caller had given up before their answer.",
            "verb",
            "outcome",
        )
        self._swept = registry.observed_counter(
            "drawdown.sweep.holds", "{hold}", "Holds that the sweep expired, and tombstones that it forgot.", "outcome"
        )
        self._certificate_expiry = registry.gauge(
            "drawdown.tls.certificate.expire_time",
            "s",
            "When the server's certificate expires, since the Unix epoch; not there without TLS.",
        )
        self._followed: dict[str, ReloadCounts] = {}
        self._reloads = registry.observed_counter(
            "drawdown.tls.reloads",
            "{reload}",
            "Times that the server's certificate, or the file of certificates' callers, changed, by what came of it.",
            "file",
            "outcome",
        )
        self._keys_age = registry.gauge(
            "drawdown.keys.age", "s", "Since Postgres last said which API keys have changed; not there without keys."
        )
        self._keys_looked_up = registry.observed_counter(
            "drawdown.keys.looked_up", "{key}", "API keys that this process had not seen before.", "outcome"
        )
        self._define_ledger(registry)

    def _define_calls(self, registry: Registry) -> None:
        self._calls_in_flight = registry.gauge(
            "drawdown.calls.in_flight", "{call}", "Calls that have arrived and are not answered yet."
        )
        self._calls_abandoned = registry.observed_counter(
            "drawdown.calls.abandoned",
            "{call}",
            "Calls of administrators that went on without their caller.",
            "rpc.method",
            "rpc.response.status_code",
        )
        self._calls_refused = registry.observed_counter(
            "drawdown.calls.refused",
            "{call}",
            "Calls refused because there were too many, of all (OVERLOADED) or of their caller (RATE_LIMITED).",
            "reason",
        )

    def _define_ledger(self, registry: Registry) -> None:
        self._flush_batch_size = registry.histogram(
            "drawdown.flush.batch.size", "{event}", "Events recorded in one transaction.", bounds=BATCH_BOUNDS
        )
        self._flushed = self._counter(registry, "drawdown.flush.events", "{event}", "Events recorded in the ledger.")
        self._dead_lettered = self._counter(
            registry, "drawdown.flush.dead_letters", "{event}", "Events that this process could not record as entries."
        )
        self._dead_letters = registry.gauge(
            "drawdown.dead_letters",
            "{event}",
            "Events in dead_letters, of the whole installation: each needs a person.",
        )
        self._leases = registry.gauge(
            "drawdown.flush.leases", "{partition}", "Partitions that this process' flusher records."
        )
        self._reconciled = registry.observed_counter(
            "drawdown.reconcile.wallets", "{wallet}", "Wallets whose two sides this process has compared."
        )
        self._differences_found = registry.observed_counter(
            "drawdown.reconcile.differences_found",
            "{difference}",
            "Differences between Valkey and Postgres seen.",
        )
        self._differences = registry.gauge(
            "drawdown.reconcile.differences", "{difference}", "Differences in the last complete pass of this process."
        )
        self._reconcile_time = registry.gauge(
            "drawdown.reconcile.time", "s", "When that pass ended, since the Unix epoch; 0 = there was none yet."
        )
        self._outbox_events = registry.gauge(
            "drawdown.outbox.events",
            "{event}",
            "Events of all partitions that the ledger has not recorded yet; of a Valkey that is lost, as it was last.",
        )
        self._outbox_units = registry.gauge(
            "drawdown.outbox.units", "{unit}", "Units debited by those events; an estimate in a long outbox.", "asset"
        )
        self._outbox_age = registry.gauge(
            "drawdown.outbox.age",
            "s",
            "Age of the oldest of those events; 0 = none. It grows while their Valkey is lost.",
        )
        self._epoch_max = registry.gauge("drawdown.epoch.max", "{epoch}", "The highest epoch of any partition.")
        self._rebuilds = registry.observed_counter(
            "drawdown.rebuilds", "{partition}", "Times that a partition began a new epoch because its state was lost."
        )

    @staticmethod
    def _counter(registry: Registry, name: str, unit: str, description: str) -> Counter:
        """A counter without attributes, which says 0 before anything happened: an alert needs to see it grow."""
        counter = registry.counter(name, unit, description)
        counter.add(count=0)
        return counter

    # --- what happens -------------------------------------------------------------------------------------------

    def call(self, method: str, code: str, duration_s: float) -> None:
        """A call was answered.

        Args:
            method: Full name without the leading slash; one that does not exist is ``_OTHER``.
            code: gRPC's name: ``OK``.
            duration_s: Since its arrival.
        """
        self._calls.record(duration_s, "grpc", method, code, code if code in GRPC_ERRORS else "")

    def decision(self, verb: str, reason: str, asset: str) -> None:
        """A caller was told yes or no.

        Args:
            verb: ``authorize``, ``charge`` or ``extend``.
            reason: Why not; empty: approved.
            asset: The one that decided: what a denial names, else the first one asked for.
        """
        if reason == "ASSET_NOT_FOUND":
            asset = OTHER
        self._decisions.add(verb, "DENIED" if reason else "APPROVED", reason, asset)

    def replay(self, verb: str) -> None:
        """A caller sent something again, and got the first answer."""
        self._replays.add(verb)

    def hold_settled(self, outcome: str, age_ms: int) -> None:
        """A hold ended: ``committed``, ``committed_late`` or ``released``."""
        self._hold_ages.record(age_ms / 1000, outcome)

    def script(self, verb: str, duration_s: float) -> None:
        """A script ran, or failed."""
        self._scripts.record(duration_s, verb)

    def batch_recorded(self, events: int, dead_letters: int) -> None:
        """A transaction of the flusher was committed; ``events`` counts its dead letters as well."""
        self._flush_batch_size.record(events)
        self._flushed.add(count=events - dead_letters)
        self._dead_lettered.add(count=dead_letters)

    # --- what is looked at when somebody reads -----------------------------------------------------------------

    def follow_calls(self, calls: CallCounts) -> None:
        """Look here for the calls in flight, and those that were abandoned."""
        self._calls_in_flight.follow_one(lambda: calls.in_flight)
        self._calls_abandoned.follow(lambda: {(method, code): n for (method, code), n in calls.abandoned.items()})

    def follow_certificate(self, certificate: CertificateCounts) -> None:
        """Look here for the expiry of the server's certificate, and how often it was replaced."""
        self._certificate_expiry.follow_one(lambda: certificate.expire_s)
        self.follow_reloads("certificate", certificate)

    def follow_reloads(self, file: str, counts: ReloadCounts) -> None:
        """Look here for how often a file was replaced: ``certificate`` or ``callers``."""
        self._followed[file] = counts
        self._reloads.follow(
            lambda: {
                (name, outcome): count
                for name, each in self._followed.items()
                for outcome, count in (("taken", each.reloads_total), ("refused", each.failures_total))
            }
        )

    def follow_keys(self, keys: KeyCounts) -> None:
        """Look here for what is known of API keys."""
        self._keys_age.follow_one(lambda: keys.age_s)
        self._keys_looked_up.follow(lambda: {("found",): keys.found_total, ("unknown",): keys.unknown_total})

    def follow_admission(self, refused: Mapping[ErrorReason, int]) -> None:
        """Look here for the calls that were refused, by the reason that they were told."""
        self._calls_refused.follow(
            lambda: {(reason.removeprefix("ERROR_REASON_"),): count for reason, count in refused.items()}
        )

    def follow_store(
        self,
        in_flight: Callable[[], int],
        abandoned: Callable[[], Mapping[tuple[str, str], int]],
        epochs: Sequence[int],
    ) -> None:
        """Look here for the commands in flight, the abandoned ones by verb and outcome, and the partitions' epochs."""
        self._store_in_flight.follow_one(in_flight)
        self._scripts_abandoned.follow(lambda: {(verb, outcome): n for (verb, outcome), n in abandoned().items()})
        self._epoch_max.follow_one(lambda: max(epochs))
        # The first epoch is 1; 0 = not known yet.
        self._rebuilds.follow_one(lambda: sum(max(0, epoch - 1) for epoch in epochs))

    def follow_sweeper(self, sweeper: SweeperCounts) -> None:
        """Look here for what the sweep did."""
        self._swept.follow(lambda: {("expired",): sweeper.expired_total, ("forgotten",): sweeper.forgotten_total})

    def follow_flusher(self, flusher: FlusherCounts) -> None:
        """Look here for the flusher's partitions."""
        self._leases.follow_one(lambda: len(flusher.owned_partitions))

    def follow_reconciler(self, reconciler: ReconcilerCounts) -> None:
        """Look here for what was compared."""
        self._reconciled.follow_one(lambda: reconciler.wallets_total)
        self._differences_found.follow_one(lambda: reconciler.differences_total)
        self._differences.follow_one(lambda: reconciler.differences)
        self._reconcile_time.follow_one(lambda: reconciler.last_run_s)

    def follow_backlog(self, backlog: Backlog) -> None:
        """Look here for what waits for the ledger."""
        self._outbox_events.follow_one(lambda: backlog.events)
        self._outbox_units.follow(lambda: {(asset,): units for asset, units in backlog.units.items()})
        self._outbox_age.follow_one(lambda: backlog.age_s)
        self._dead_letters.follow_one(lambda: backlog.dead_letters)
