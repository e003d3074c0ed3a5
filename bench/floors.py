"""What this machine can do at most, measured beside everything else: ratios to it survive a busy or a slow machine."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable

import numpy as np

from blobstore.records import WeightSpec
from services.aggregator.exact_sums import PartialSum
from services.aggregator.sum_plan import SumPlan

COPIED_BYTES = 64 << 20
PIECE_BYTES = 1 << 20
KERNEL_WEIGHTS = 1_000_000
GB = 1e9


def loopback(total: int = 2 * COPIED_BYTES, *, times: int = 9) -> float:
    """Bytes per second of one copy through a loopback TCP socket, sender and receiver on a core each."""
    return max(_copied_through_loopback(total) for _ in range(times))


def _copied_through_loopback(total: int) -> float:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        receiver, _ = listener.accept()
    payload = bytes(PIECE_BYTES)

    def send() -> None:
        with sender:
            for _ in range(total // PIECE_BYTES):
                sender.sendall(payload)

    sending = threading.Thread(target=send)
    buffer = bytearray(PIECE_BYTES)
    started = time.perf_counter()
    sending.start()
    with receiver:
        while receiver.recv_into(buffer):
            pass
    seconds = time.perf_counter() - started
    sending.join()
    return total / seconds


def memcpy() -> float:
    """Bytes per second of a copy from memory to memory."""
    source, target = np.ones(COPIED_BYTES, np.uint8), np.zeros(COPIED_BYTES, np.uint8)
    return COPIED_BYTES / _best(lambda: np.copyto(target, source))


def sha256() -> float:
    """Bytes per second that one core digests."""
    data = bytes(COPIED_BYTES)
    return COPIED_BYTES / _best(lambda: hashlib.sha256(data).digest())


def exact_sums() -> tuple[float, float]:
    """Bytes of float32 per second that one core checks, and that it adds to a sum."""
    base = np.random.default_rng(1).normal(0, 0.05, KERNEL_WEIGHTS).astype("<f4").tobytes()
    plan = SumPlan.for_base([WeightSpec("kernel", (KERNEL_WEIGHTS,))], base, 1 << 20)
    total = PartialSum(plan)
    return len(base) / _best(lambda: plan.check(base)), len(base) / _best(lambda: total.add(base, 1))


def _best(work: Callable[[], object], *, times: int = 7) -> float:
    """Seconds of the fastest of several runs: what others do on the machine only makes it slower."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
