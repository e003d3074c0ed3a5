"""Shows the system at work: three participants, none of whom sees the others' rows, learn to read digits.

    make demo                                   starts a system of its own and removes it again
    make demo ARGS='--address 127.0.0.1:50052'  uses the one that runs there

After every round the newest version is tried on rows that no participant has. Exits
with 0 only if it reads digits well in the end.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np
from disco.aggregator.v1 import aggregator_service_pb2 as messages
from disco.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub
from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from disco_server.ports import WantedPort, find_free
from examples.participant import CALL_S, TASK_ID, Coordinator, Weights, again, split

NAMES = ("north", "south", "west")
START_S = 60.0
STOP_S = 60.0
GOOD = 0.9
BAR = 24
ROUND_S = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Three participants learn to read digits.")
    parser.add_argument("--address", help="gRPC target of aggregators that run already; absent: a system of our own")
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    console = Console()
    with ExitStack() as stack:
        address = arguments.address or stack.enter_context(own_system(console))
        channel = stack.enter_context(grpc.insecure_channel(address))
        first_version = newest_version(channel)
        last_version = first_version + arguments.rounds
        stack.enter_context(participants(address, until=last_version))
        started = time.monotonic()
        try:
            accuracies = watch(channel, range(first_version, last_version + 1), console=console)
        except grpc.RpcError as error:
            sys.exit(f"The rounds ended early: {error.details()}")
    first, last = accuracies[0], accuracies[-1]
    console.print(
        f"\n{len(NAMES)} participants, {len(accuracies) - 1} rounds, {time.monotonic() - started:.0f} s: "
        f"{first:.1%} of the digits were read correctly at first, {last:.1%} in the end. No row left its participant.",
        soft_wrap=True,
    )
    if last < GOOD:
        sys.exit(f"It should read {GOOD:.0%} of them.")


@contextmanager
def own_system(console: Console) -> Iterator[str]:
    """A system in a temporary directory, on ports that are free; gives the address of its aggregator."""
    words = ("GATEWAY", "TASK_SERVICE", "AGGREGATOR", "SIGNALING")
    ports = find_free([WantedPort(f"DISCO_{word}_PORT", "", "127.0.0.1", 0) for word in words])
    with tempfile.TemporaryDirectory(prefix="disco-demo-") as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DISCO_")}
        for word, port in zip(words, ports, strict=True):
            environment |= {f"DISCO_{word}_PORT": str(port), f"DISCO_{word}_METRICS_PORT": "0"}
        log = Path(folder, "system.log")
        console.print("Starting the system.")
        with log.open("wb") as output:
            system = subprocess.Popen(  # noqa: S603 (a command of our own)
                [sys.executable, "-m", "disco_server", "--data-dir", str(Path(folder, "data"))],
                env={**environment, "DISCO_DEFAULT_TASKS": TASK_ID},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            address = f"127.0.0.1:{ports[words.index('AGGREGATOR')]}"
            wait_until_ready(address, system, log=log)
            yield address
        finally:
            system.send_signal(signal.SIGINT)
            system.wait(STOP_S)


def wait_until_ready(address: str, system: subprocess.Popen[bytes], *, log: Path) -> None:
    """Returns when rounds can be read. Exits where the system does not start."""
    end = time.monotonic() + START_S
    with grpc.insecure_channel(address) as channel:
        stub = AggregatorServiceStub(channel)
        while time.monotonic() < end and system.poll() is None:
            try:
                stub.GetRound(messages.GetRoundRequest(task_id=TASK_ID), timeout=1)
            except grpc.RpcError:
                time.sleep(0.1)
            else:
                return
    sys.exit("The system did not start:\n" + log.read_text(errors="replace"))


@contextmanager
def participants(address: str, *, until: int) -> Iterator[None]:
    """The participants, each a process of its own with rows of its own."""
    processes = [
        subprocess.Popen(  # noqa: S603 (a command of our own)
            [
                *(sys.executable, "-m", "examples.participant", "--address", address, "--name", name),
                *("--share", f"{index}/{len(NAMES)}", "--until", str(until)),
            ],
            stdin=subprocess.DEVNULL,
        )
        for index, name in enumerate(NAMES)
    ]
    try:
        yield
        for process in processes:
            process.wait(STOP_S)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def newest_version(channel: grpc.Channel) -> int:
    """The number of the newest version."""
    stub = AggregatorServiceStub(channel)
    return int(again(lambda: stub.GetRound(messages.GetRoundRequest(task_id=TASK_ID), timeout=CALL_S)).round.version)


def watch(channel: grpc.Channel, versions: range, *, console: Console) -> list[float]:
    """Shows a line for each of the versions as soon as it is there; gives their accuracies."""
    stub = AggregatorServiceStub(channel)
    reader = Coordinator(channel, task_id=TASK_ID, participant_id="reader")
    _, pixels, _, digits = split()
    table = Table(
        "Version", "Made from", "Participants", Column("Digits read correctly", no_wrap=True), title="Task digits"
    )
    accuracies: list[float] = []
    with Live(table, console=console, refresh_per_second=8):
        for version in versions:
            if version > versions.start:
                reader.wait_for_version_after(version - 1, within_s=ROUND_S)
            now = again(lambda: stub.GetRound(messages.GetRoundRequest(task_id=TASK_ID), timeout=CALL_S)).round
            _, weights = reader.read(version)
            accuracies.append(accuracy(weights, pixels, digits=digits))
            made_from = f"{now.last_contributions} contributions" if version > versions.start else "-"
            table.add_row(str(version), made_from, str(now.participants), bar(accuracies[-1]))
    return accuracies


def accuracy(weights: Weights, pixels: np.ndarray, *, digits: np.ndarray) -> float:
    """Share of the rows whose digit the weights find."""
    kernel_1, bias_1, kernel_2, bias_2 = weights
    hidden = np.maximum(pixels @ kernel_1 + bias_1, 0)
    found = np.argmax(hidden @ kernel_2 + bias_2, axis=1)
    return float(np.mean(found == digits))


def bar(share: float) -> str:
    """A bar and a percentage."""
    full = round(share * BAR)
    return "█" * full + "░" * (BAR - full) + f" {share:6.1%}"


if __name__ == "__main__":
    main()
