"""What the signaling service counts, beside its calls."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class SignalingMetrics:
    """Counters of one replica.

    Outcomes of signals: `here` (the peer's stream is on this replica), `passed_on`
    (to another one), `held` (the peer is between two streams), `refused` (the sender
    was told), `lost` (nobody was).
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._signals = Counter("disco_signals", "Signals of peers, by outcome.", ("outcome",), registry=registry)
        self._streams = Gauge("disco_peer_streams", "Streams of peers that are open here.", registry=registry)

    def signal(self, outcome: str) -> None:
        self._signals.labels(outcome).inc()

    def streams(self, count: int) -> None:
        self._streams.set(count)
