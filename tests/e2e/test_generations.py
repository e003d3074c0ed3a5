"""Every generation through the whole system, and several of them together; their clients are in `raw_clients`."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import struct
import urllib.request
from collections.abc import AsyncIterator, Sequence

import msgspec
import numpy as np
import pytest
import pytest_asyncio

from tests.e2e.exact_mean import exact_mean
from tests.e2e.raw_clients import (
    G21Participant,
    G22Participant,
    G22Peer,
    G30Participant,
    G30Peer,
    GDVParticipant,
    GDVPeer,
    RawParticipant,
    RawPeer,
)
from tests.e2e.system import System
from tests.waiting import eventually

SHAPES = ((4, 5), (5,))
SIZES = (20, 5)
SIGNAL = {
    "type": "candidate",
    "candidate": {"candidate": "", "sdpMLineIndex": 0, "sdpMid": None},
    "usernameFragment": None,
}
GENERATIONS = [G21Participant, G22Participant, G30Participant, GDVParticipant]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """One running system for the tests of this file; each has a task of its own."""
    system = System(tmp_path_factory.mktemp("generations") / "data")
    await system.start()
    try:
        yield system
    finally:
        await system.stop()


def create(system: System, task_id: str, scheme: str, minimum: int) -> str:
    """Uploads a task; returns its id."""
    layer = {"name": "d", "units": 5, "batch_input_shape": [None, 4], "dtype": "float32"}
    specs = [{"name": "d/kernel", "shape": [4, 5], "dtype": "float32"}]
    specs += [{"name": "d/bias", "shape": [5], "dtype": "float32"}]
    model = {
        "modelTopology": {
            "class_name": "Sequential",
            "config": {"name": task_id, "layers": [{"class_name": "Dense", "config": layer}]},
            "keras_version": "tfjs-layers 4.20.0",
            "backend": "tensor_flow.js",
        },
        "weightSpecs": specs,
        "weightData": msgspec.msgpack.Ext(0x1A, struct.pack("<25f", *np.linspace(-2, 2, 25))),
    }
    training = {
        "modelID": task_id,
        "epochs": 1,
        "batchSize": 1,
        "roundDuration": 1,
        "validationSplit": 0,
        "modelCompileData": {"optimizer": "sgd", "loss": "meanSquaredError", "metrics": []},
        "dataType": "tabular",
        "inputColumns": ["a", "b", "c", "d"],
        "outputColumns": ["e", "f", "g", "h", "i"],
        "scheme": scheme,
        "minimumReadyPeers": minimum,
    }
    task = {"taskID": task_id, "displayInformation": {"taskTitle": task_id}, "trainingInformation": training}
    body = json.dumps({"task": task, "model": base64.b64encode(msgspec.msgpack.encode(model)).decode()}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{system.url}v2.1/tasks", body), timeout=30) as answer:
        assert answer.status == 200
    return task_id


def socket_url(system: System) -> str:
    return f"ws://127.0.0.1:{system.port}/"


def participant(kind: type[RawParticipant], system: System, task_id: str, seed: int) -> RawParticipant:
    return kind(socket_url(system), task_id, SHAPES, np.random.default_rng(seed))


def counted_in(system: System, task_id: str, clients: Sequence[RawParticipant]) -> list[list[str]]:
    """The digests that each version counts, after every version was computed again from what the clients sent."""
    sent = dict(zip((d for c in clients for d in c.digests), (w for c in clients for w in c.sent), strict=True))
    digest = system.record(task_id)["initial_digest"]
    rounds = []
    for number, entry in enumerate(system.ledger(task_id), start=1):
        assert (entry["version"], entry["base_digest"]) == (number, digest)
        received = [(sent[line["digest"]], line["weight"]) for line in entry["contributions"]]
        expected = exact_mean(system.weights(task_id, digest), SIZES, received, entry["weight_cap"])
        digest = entry["digest"]
        assert hashlib.sha256(expected).hexdigest() == digest
        assert system.weights(task_id, digest) == expected
        rounds.append([line["digest"] for line in entry["contributions"]])
    everything = [digest for one in rounds for digest in one]
    assert len(everything) == len(set(everything)), "a contribution is counted twice"
    return rounds


def assert_only_versions_were_adopted(system: System, task_id: str, clients: Sequence[RawParticipant]) -> None:
    versions = {system.record(task_id)["initial_digest"], *(entry["digest"] for entry in system.ledger(task_id))}
    adopted = {hashlib.sha256(weights).hexdigest() for client in clients for weights in client.adopted}
    assert adopted
    assert adopted <= versions


@pytest.mark.parametrize("kind", GENERATIONS)
async def test_participants_come_late_and_leave_and_every_contribution_is_counted(
    shared: System, kind: type[RawParticipant]
) -> None:
    # What should happen:
    # 1. three clients train; one leaves after two rounds, one comes in the middle of it
    # 2. every version is, to the bit, the mean of what its round received
    # 3. whatever a client was answered for is counted
    # What should not happen:
    # - a client that throws or waits for ever, or adopts what is no version
    task_id = create(shared, f"late-{kind.__name__}", "Federated", 2)
    stayers = [participant(kind, shared, task_id, seed) for seed in (1, 2)]
    leaver, late = participant(kind, shared, task_id, 3), participant(kind, shared, task_id, 4)
    clients = [*stayers, leaver, late]
    enough = asyncio.Event()

    async def train(client: RawParticipant, rounds: int) -> None:
        async with client:
            for _ in range(rounds):
                if enough.is_set():
                    return
                await client.run(1)

    async def join_late() -> None:
        await eventually(lambda: has_rounds(leaver, 2), 60)
        await train(late, 1000)

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(train(client, 1000)) for client in stayers]
        running += [group.create_task(train(leaver, 2)), group.create_task(join_late())]
        await eventually(lambda: has_rounds(late, 4), 60)
        enough.set()
        # The last round may have too few to close: whoever still waits goes away.
        _, waiting = await asyncio.wait(running, timeout=3)
        for one in waiting:
            one.cancel()

    await eventually(lambda: is_settled(shared, task_id))
    counted = {digest for one in counted_in(shared, task_id, clients) for digest in one}
    assert len(leaver.sent) == 2
    for client in clients:
        assert set(client.digests[:-1]) <= counted
    assert_only_versions_were_adopted(shared, task_id, clients)
    assert late.adopted[0] != shared.weights(task_id, shared.record(task_id)["initial_digest"])


async def has_rounds(client: RawParticipant, rounds: int) -> bool:
    return client.rounds >= rounds


async def is_settled(system: System, task_id: str) -> bool:
    """Whether nothing is being written any more: two looks at the ledger find the same."""
    before = len(system.ledger(task_id))
    await asyncio.sleep(0.2)
    return len(system.ledger(task_id)) == before


async def test_generations_share_a_round_and_its_version_is_the_exact_mean(shared: System) -> None:
    task_id = create(shared, "mixed", "Federated", 4)
    clients = [participant(kind, shared, task_id, seed) for seed, kind in enumerate(GENERATIONS)]

    async def train(client: RawParticipant) -> None:
        async with client:
            await client.run(3)

    await asyncio.gather(*(train(client) for client in clients))
    rounds = counted_in(shared, task_id, clients)
    assert len(rounds) == 3
    for number, counted in enumerate(rounds):
        assert set(counted) == {client.digests[number] for client in clients}
        version = shared.weights(task_id, shared.ledger(task_id)[number]["digest"])
        assert {client.adopted[-3 + number] for client in clients} == {version}


async def test_first_client_of_gdv_waits_for_the_second_and_one_that_is_left_alone_is_answered(shared: System) -> None:
    # What should happen: who is told to wait is told when there are enough; who has contributed and is left alone gets
    # its answer when somebody comes and contributes.
    task_id = create(shared, "waiting", "Federated", 2)
    first, second, third = (participant(GDVParticipant, shared, task_id, seed) for seed in (1, 2, 3))
    assert isinstance(first, GDVParticipant)
    async with first:
        assert first.must_wait
        async with second:
            await asyncio.gather(first.run(1), second.run(1))
            assert not first.must_wait
        alone = asyncio.create_task(first.run(1))
        async with third:
            await asyncio.gather(alone, third.run(1))
    rounds = counted_in(shared, task_id, [first, second, third])
    assert [len(one) for one in rounds] == [2, 2]


@pytest.mark.parametrize("kind", [G22Participant, G30Participant])
async def test_client_alone_is_answered_in_time_and_its_contribution_is_kept(
    shared: System, kind: type[RawParticipant]
) -> None:
    # What should happen: an answer within 15 seconds although the round cannot close, with what the client has already;
    # its next contribution finds the first one counted, and waits for the round that somebody else closes.
    task_id = create(shared, f"alone-{kind.__name__}", "Federated", 2)
    alone, other = participant(kind, shared, task_id, 1), participant(GDVParticipant, shared, task_id, 2)
    async with alone:
        await alone.run(1)
        assert alone.adopted == [shared.weights(task_id, shared.record(task_id)["initial_digest"])]
        async with other:
            await asyncio.gather(alone.run(1), other.run(1))
    ((one, two),) = counted_in(shared, task_id, [alone, other])
    assert {one, two} == {alone.digests[0], other.digests[0]}


async def test_contribution_that_is_not_finite_costs_its_sender_one_round_of_training(shared: System) -> None:
    # What should happen: the sender is answered at once with the newest version and contributes again, so that the
    # round closes. What should not happen: two clients that wait for each other for ever.
    task_id = create(shared, "finite", "Federated", 2)
    sick, well = participant(GDVParticipant, shared, task_id, 1), participant(GDVParticipant, shared, task_id, 2)
    async with sick, well:
        healthy = asyncio.create_task(well.run(1))
        await sick.exchange(np.full(25, np.nan, "<f4"))
        assert sick.adopted[-1] == shared.weights(task_id, shared.record(task_id)["initial_digest"])
        await asyncio.gather(healthy, sick.run(1))
    ((one, two),) = counted_in(shared, task_id, [sick, well])
    assert {one, two} == {sick.digests[0], well.digests[0]}


@pytest.mark.parametrize("kind", [G22Peer, G30Peer, GDVPeer])
async def test_peers_are_introduced_in_every_round_and_hear_each_other(shared: System, kind: type[RawPeer]) -> None:
    task_id = create(shared, f"peers-{kind.__name__}", "Decentralized", 3)
    peers = [kind(socket_url(shared), task_id) for _ in range(3)]

    async def take_part(peer: RawPeer) -> None:
        for _ in range(3):
            await peer.begin_round()
            await peer.be_ready()
            await peer.send_signals(SIGNAL)
            heard = [await peer.hear_signal() for _ in range(2)]
            assert sorted(who for who, _ in heard) == sorted(peer.lists[-1])
            assert all(signal == SIGNAL for _, signal in heard)

    async with peers[0], peers[1], peers[2]:
        await asyncio.gather(*(take_part(peer) for peer in peers))
        ids = {peer.peer_id for peer in peers}
        for peer in peers:
            assert [set(one) for one in peer.lists] == [ids - {peer.peer_id}] * 3


async def test_peers_that_cannot_speak_with_each_other_are_never_introduced(shared: System) -> None:
    # What should happen: three of each kind wait for the same task; each is introduced to its own kind only, G22 and
    # G30 being one kind. What should not happen: a list with peers of another kind, or signals between the kinds.
    task_id = create(shared, "kinds", "Decentralized", 3)
    kinds: list[list[type[RawPeer]]] = [[GDVPeer, GDVPeer, GDVPeer], [G22Peer, G30Peer, G30Peer]]
    groups = [[kind(socket_url(shared), task_id) for kind in group] for group in kinds]
    everybody = [peer for pair in zip(*groups, strict=True) for peer in pair]
    for peer in everybody:
        await peer.__aenter__()
    try:
        await asyncio.gather(*(peer.begin_round() for peer in everybody))
        await asyncio.gather(*(peer.be_ready() for peer in everybody))
        for group in groups:
            ids = {peer.peer_id for peer in group}
            assert [set(peer.lists[0]) for peer in group] == [ids - {peer.peer_id} for peer in group]
    finally:
        for peer in everybody:
            await peer.__aexit__()
