"""What an aggregator counts, for Prometheus. Knows no rounds and no store."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class AggregatorMetrics:
    """The metrics of one process, in its registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.contributions = Counter(
            "disco_contributions",
            'Contributions answered: "admitted", "repeated" (the same receipt again), or the reason of a refusal.',
            ("outcome",),
            registry=registry,
        )
        self.group_members = Histogram(
            "disco_group_members", "Contributions that were committed together.", buckets=_SIZES, registry=registry
        )
        self.folded_bytes = Counter("disco_folded_bytes", "Bytes of weights added to sums.", registry=registry)
        self.rounds_closed = Counter("disco_rounds_closed", "Rounds this replica closed.", registry=registry)
        self.closing_seconds = Histogram(
            "disco_closing_seconds", "Seconds from the lease to the next round.", buckets=_SECONDS, registry=registry
        )
