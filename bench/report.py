"""What was measured, as Markdown. Knows no measuring."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import floors
from bench.memory import Peak
from bench.rows import Result, Row, Use
from bench.serving import CONNECTIONS, Serving
from bench.uploads import Uploads

Say = Callable[..., None]
"""Takes lines."""

START, END = "<!-- measured: make bench writes this -->", "<!-- end of what was measured -->"
PACKAGES = ("grpcio", "numpy", "uvicorn", "uvloop", "websockets", "msgspec", "redis")
PROCESSES = ("gateway", "aggregator", "redis")

ROWS_HEADER = """
| dialect, clients × weights | rounds/s (least–most) | upstream | times upstream | floor | of it | p50 | used |
|---|---|---|---|---|---|---|---|"""

COST_HEADER = """\
| dialect, clients × weights | CPU ms per contribution: gateway / aggregator / redis \
| cores: gateway / aggregator / clients / others | peak MB: gateway / aggregator | MB more per round |
|---|---|---|---|---|"""

MEMORY_HEADER = """\
| memory of an aggregator | MB at most | model, MB | 3 × model + 200 MB |
|---|---|---|---|"""


class Page:
    """A page with a part that is written anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before, start, rest = path.read_text().partition(START)
        _, end, self._after = rest.partition(END)
        if not start or not end:
            raise SystemExit(f"{path} has no line {START}, or no line {END} after it.")

    def write(self, said: str) -> None:
        self._path.write_text(f"{self._before}{START}\n\n{said.strip()}\n\n{END}{self._after}")


def machine() -> str:
    """Where this was measured, and with what."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    system = f"Linux {platform.release()}, load {os.getloadavg()[0]:.1f} at the start"
    return f"{today}. {os.cpu_count()} cores ({model}), {system}, Python {platform.python_version()}, {versions}.\n"


def floors_table() -> str:
    """What the machine can do, and our own kernels on one core."""
    checked, added = floors.exact_sums()
    copied = floors.memcpy()
    lines = [
        ("memcpy", copied),
        ("one copy through a loopback socket", floors.loopback()),
        ("SHA-256, one core", floors.sha256()),
        ("contributions checked (finite, within the bound), one core", checked),
        ("contributions added to an exact sum, one core", added),
    ]
    table = [f"| {what} | {speed / floors.GB:.2f} | {speed / copied:.2f} |" for what, speed in lines]
    return "\n".join(["| | GB/s | of memcpy |", "|---|---|---|", *table])


def row_line(result: Result, *, spread: Sequence[float]) -> str:
    row, rate, floor = result.row, result.rounds_per_s, result.floor_rounds_per_s
    cells = (
        _name(row),
        f"{_short(rate)} ({_short(min(spread))}–{_short(max(spread))})",
        f"{row.upstream_rounds:g} · {row.upstream_p50_ms:g} ms",
        f"{rate / row.upstream_rounds:.2g}",
        _short(floor),
        f"{rate / floor:.1%}",
        f"{_short(result.p50_ms)} ms",
        f"{result.used:.0%}",
    )
    return _line(cells)


def cost_line(result: Result) -> str:
    uses = [result.processes[name] for name in PROCESSES]
    cells = (
        _name(result.row),
        " / ".join(_short(use.cpu_ms) for use in uses),
        " / ".join(f"{share:.2f}" for share in (*_shares(uses[:2]), result.driver_share, result.others_share)),
        " / ".join(f"{use.peak_mb:.0f}" for use in uses[:2]),
        " / ".join(f"{use.growth_mb:.3f}" for use in uses[:2]),
    )
    return _line(cells)


def uploads_line(measured: Uploads) -> str:
    """Contributions over gRPC, in sentences."""
    rate, core = measured.per_s / floors.GB, measured.per_core / floors.GB
    return (
        f"SubmitContribution, {measured.contributions} contributions of 4 MB: {rate:.3f} GB/s from the socket to the "
        f"receipt ({rate * floors.GB / measured.floor_per_s:.1%} of a loopback copy), p50 {measured.p50_ms:.0f} ms, "
        f"{measured.used:.0%} used; the aggregator spends {1 / core:.2f} CPU seconds on a GB "
        f"({core:.3f} GB/s per core)."
    )


def large_model_line(peak: Peak) -> str:
    """The first round, and those after it."""
    return "\n".join(
        (
            _memory_line(f"{peak.model_mb:.0f} MB, two senders at a time", peak.later_mb, peak),
            _memory_line("the same in the first round, from initial weights (all below 1/32)", peak.first_mb, peak),
        )
    )


def participants_line(found: tuple[int, Peak]) -> str:
    participants, peak = found
    return _memory_line(f"{participants} participants of a round", max(peak.first_mb, peak.later_mb), peak)


def rounds_line(rounds: int, use: Use) -> str:
    """As the other rows, for the middle and the last round."""
    after = f"{use.middle_mb:.1f} after {rounds // 2}, {use.last_mb:.1f} after {rounds}"
    return _line((f"{rounds} rounds of 2 × 10 k", after, "0.04", "200"))


def _memory_line(what: str, mb: float, peak: Peak) -> str:
    return _line((what, f"{mb:.1f}", f"{peak.model_mb:g}", f"{3 * peak.model_mb + 200:.0f}"))


def serving_line(measured: Serving) -> str:
    """Models over HTTP, in sentences."""
    failed = f" Not all of it worked: {measured.failed}." if measured.failed else ""
    return (
        f"A model of 4 MB over HTTP to {CONNECTIONS} connections: {measured.ours:.0f} requests/s, nginx with the same "
        f"bytes {measured.nginx:.0f} ({measured.ours / measured.nginx:.0%}); "
        f"{measured.cpu_ms:.1f} ms of the gateway's CPU for a request.{failed}"
    )


def _shares(uses: Sequence[Use]) -> list[float]:
    return [use.cpu_share for use in uses]


def _name(row: Row) -> str:
    return f"{row.dialect}, {row.name}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _short(number: float) -> str:
    """Three digits."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"
