"""What the gateway counts for Prometheus. Every label has a bounded set of values: never an id a stranger chose."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class GatewayMetrics:
    """The gateway's own metrics, in the registry of its process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._sockets = Gauge(
            "disco_gateway_sockets", "Sockets that are open.", ("scheme", "dialect"), registry=registry
        )
        self._upgrades_refused = Counter(
            "disco_gateway_upgrades_refused", "Sockets that were not opened.", ("reason",), registry=registry
        )
        self._sockets_ended = Counter(
            "disco_gateway_sockets_ended", "Sockets that the gateway closed.", ("reason",), registry=registry
        )
        self._messages_refused = Counter(
            "disco_gateway_messages_refused", "Messages of clients that were refused.", ("reason",), registry=registry
        )
        self._contributions = Counter(
            "disco_gateway_contributions", "Contributions by what became of them.", ("outcome",), registry=registry
        )
        self._calls_failed = Counter(
            "disco_gateway_calls_failed", "Calls to services that were given up.", ("call", "reason"), registry=registry
        )
        self._signals_dropped = Counter(
            "disco_gateway_signals_dropped", "Signals between peers that nobody got.", ("reason",), registry=registry
        )
        self._requests = Counter(
            "disco_gateway_http_requests", "HTTP requests by status.", ("method", "status"), registry=registry
        )

    def socket_opened(self, *, scheme: str, dialect: str) -> None:
        self._sockets.labels(scheme, dialect).inc()

    def socket_closed(self, *, scheme: str, dialect: str) -> None:
        self._sockets.labels(scheme, dialect).dec()

    def upgrade_refused(self, reason: str) -> None:
        self._upgrades_refused.labels(reason).inc()

    def socket_ended(self, reason: str) -> None:
        self._sockets_ended.labels(reason).inc()

    def message_refused(self, reason: str) -> None:
        self._messages_refused.labels(reason).inc()

    def contribution(self, outcome: str) -> None:
        self._contributions.labels(outcome).inc()

    def call_failed(self, call: str, reason: str) -> None:
        self._calls_failed.labels(call, reason).inc()

    def signals_dropped(self, reason: str, count: int) -> None:
        self._signals_dropped.labels(reason).inc(count)

    def request(self, method: str, status: int) -> None:
        known = method if method in ("GET", "HEAD", "POST", "OPTIONS") else "other"
        self._requests.labels(known, str(status)).inc()
