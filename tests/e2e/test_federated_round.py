"""Three published clients train the titanic task through the whole system."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from tests.e2e.conftest import titanic_rows, write_csv
from tests.e2e.exact_mean import exact_mean
from tests.e2e.real_clients import RealClient
from tests.e2e.recording_proxy import RecordingProxy, Sent
from tests.e2e.system import System

TASK = "titanic"
TENSOR_SIZES = (5 * 124, 124, 124 * 64, 64, 64 * 32, 32, 32, 1)
EPOCHS = 4


def participants(folder: Path, url: str, tmp_path: Path, count: int = 3) -> list[RealClient]:
    """Clients with 60 rows each; a batch has 30 rows and a round one batch, so an epoch has two rounds."""
    return [
        RealClient(
            folder,
            {
                "url": url,
                "task": TASK,
                "scheme": "federated",
                "csv": str(write_csv(tmp_path / f"rows-{number}.csv", titanic_rows(number, 60))),
                "epochs": EPOCHS,
                "roundDuration": 1,
            },
        )
        for number in range(count)
    ]


def assert_every_version_is_the_exact_mean(system: System, sent: list[Sent]) -> int:
    """Computes every version again from what the clients sent; returns how many contributions were counted."""
    by_digest = {one.digest: one for one in sent}
    digest = system.record(TASK)["initial_digest"]
    counted: list[str] = []
    for number, entry in enumerate(system.ledger(TASK), start=1):
        assert entry["version"] == number
        assert entry["base_digest"] == digest
        base = system.weights(TASK, digest)
        received = [(by_digest[line["digest"]].weights, line["weight"]) for line in entry["contributions"]]
        expected = exact_mean(base, TENSOR_SIZES, received, entry["weight_cap"])
        digest = entry["digest"]
        assert hashlib.sha256(expected).hexdigest() == digest
        assert system.weights(TASK, digest) == expected
        counted += [line["digest"] for line in entry["contributions"]]
    assert len(counted) == len(set(counted)), "a contribution is counted twice"
    return len(counted)


async def test_three_published_clients_train_and_every_version_is_the_exact_mean_of_its_round(
    system: System, real_client: Path, tmp_path: Path
) -> None:
    # What should happen:
    # 1. each client lists the tasks, loads the model and finishes all its rounds
    # 2. every version is, to the bit, the mean of what its round received
    # 3. what is served at the end is the newest version
    # What should not happen:
    # - a contribution that is counted twice, or not at all
    async with RecordingProxy(system.port) as proxy:
        clients = participants(real_client, proxy.url, tmp_path)
        await asyncio.gather(*(client.run() for client in clients))
    for client in clients:
        assert TASK in client.of("tasks")[0]["ids"]
        assert client.of("model")[0]["parameters"] == sum(TENSOR_SIZES)
        assert len(client.of("round")) == 2 * EPOCHS
        assert client.of("done")

    sent = proxy.contributions()
    assert len(sent) == 3 * 2 * EPOCHS
    counted = assert_every_version_is_the_exact_mean(system, sent)
    versions = system.ledger(TASK)
    assert len(versions) >= 4
    # The last participant to finish may leave a contribution in a round that no longer has enough of them.
    assert len(sent) - 2 <= counted <= len(sent)

    status, served = await system.get(f"tasks/{TASK}/weights.bin")
    assert status == 200
    assert served == system.weights(TASK, versions[-1]["digest"])
    digests = {entry["digest"] for entry in versions}
    adopted = [event for client in clients for event in client.of("round") if event["received"] != event["sent"]]
    assert adopted
    assert {event["received"] for event in adopted} <= digests


async def test_published_clients_read_the_metadata_that_they_posted(
    system: System, real_client: Path, tmp_path: Path
) -> None:
    clients = participants(real_client, system.url, tmp_path, count=2)
    for number, client in enumerate(clients):
        client.options |= {"epochs": 1, "metadata": f"note of participant {number}"}
    await asyncio.gather(*(client.run() for client in clients))
    for number, client in enumerate(clients):
        (read,) = client.of("metadata")
        assert [read["own"], f"note of participant {number}"] in read["notes"]


async def test_what_was_trained_is_still_there_after_a_restart(
    system: System, real_client: Path, tmp_path: Path
) -> None:
    clients = participants(real_client, system.url, tmp_path, count=2)
    await asyncio.gather(*(client.run() for client in clients))
    before = await system.get(f"tasks/{TASK}/weights.bin")
    trained = system.ledger(TASK)
    assert trained

    assert await system.stop() == 0
    await system.start()

    assert await system.get(f"tasks/{TASK}/weights.bin") == before
    newcomer = RealClient(real_client, {**clients[0].options, "epochs": 1})
    companion = RealClient(real_client, {**clients[1].options, "epochs": 1})
    await asyncio.gather(newcomer.run(), companion.run())
    assert newcomer.of("model")[0]["digest"] == trained[-1]["digest"]
    assert len(system.ledger(TASK)) > len(trained)
