"""One replica over real gRPC: what a peer may say, and what it hears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from disco.signaling.v1 import signaling_service_pb2_grpc
from disco.signaling.v1.signaling_service_pb2 import ConnectRequest, GetPeerRoundRequest, PeerRound

from blobstore import task_updates
from blobstore.directory import DirectoryBlobStore
from learning.refusals import (
    InvalidId,
    MalformedMessage,
    PeerReplaced,
    ShuttingDown,
    TaskNotFound,
    WrongScheme,
)
from learning.task import Scheme
from roundstore.peer_store import MemoryPeerStore
from services.signaling import servicer
from services.signaling.task_book import REMEMBERED_S
from tests.services.signaling.peers import (
    TASK,
    Peer,
    Replica,
    a_task,
    channel_to,
    connected,
    keep_task,
    running_replica,
)
from tests.waiting import eventually


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[Replica]:
    await keep_task(tmp_path, a_task())
    await keep_task(tmp_path, a_task("federated", scheme=Scheme.FEDERATED))
    async with running_replica(MemoryPeerStore(), tmp_path) as replica:
        yield replica


@pytest.fixture
async def channel(replica: Replica) -> AsyncIterator[grpc.aio.Channel]:
    async with channel_to(replica) as [channel]:
        yield channel


async def test_two_peers_are_introduced_and_exchange_signals(channel: grpc.aio.Channel, replica: Replica) -> None:
    one, two = await connected(channel, 2)
    assert (one.peer_id, one.started.resumed, one.started.peers_present, one.started.min_peers) == ("1", False, 1, 2)
    assert (two.peer_id, two.started.peers_present) == ("2", 2)
    assert len(one.started.session_token) == 32
    assert one.started.session_token != two.started.session_token
    await one.mark_ready()
    await two.mark_ready()
    assert await one.hears_list(0) == ["2"]
    assert await two.hears_list(0) == ["1"]
    for number in range(5):
        await two.send("1", b"\x00\xff %d" % number)
    await one.hears(lambda: len(one.signals) == 5)
    assert one.signals == [("2", b"\x00\xff %d" % number) for number in range(5)]
    assert (replica.signals("here"), replica.streams()) == (5, 2)


async def test_round_says_what_it_waits_for(channel: grpc.aio.Channel, replica: Replica) -> None:
    stub = signaling_service_pb2_grpc.SignalingServiceStub(channel)

    async def told() -> PeerRound:
        return (await stub.GetPeerRound(GetPeerRoundRequest(task_id=TASK))).round  # type: ignore[no-any-return]

    assert await told() == PeerRound(
        task_id=TASK,
        min_peers=2,
        waiting=PeerRound.WAITING_PEERS,
        waiting_sentence="Round 0 waits for peers: 0 of at least 2 are present.",
    )
    one, two = await connected(channel, 2)
    await one.mark_ready()

    async def is_marked() -> bool:
        return (await told()).peers_ready == 1

    await eventually(is_marked)
    gathering = await told()
    assert (gathering.peers_present, gathering.waiting) == (2, PeerRound.WAITING_READY_PEERS)
    assert "1 of at least 2" in gathering.waiting_sentence
    await two.mark_ready()
    await one.hears_list(0)
    assert (await told()).number == 1
    for task_id, kind in (("nope", TaskNotFound), ("federated", WrongScheme), ("../etc", InvalidId)):
        with pytest.raises(kind):
            await stub.GetPeerRound(GetPeerRoundRequest(task_id=task_id))


async def test_peers_of_different_protocols_are_not_introduced(channel: grpc.aio.Channel) -> None:
    # What should happen: each is introduced to who speaks as it does. What should not happen: signals between the two
    # kinds, who would not understand each other.
    peers = [await Peer().connect(channel, protocol=protocol) for protocol in ("g21", "gdv", "g21", "gdv")]
    for peer in peers:
        await peer.mark_ready()
    lists = [await peer.hears_list(number) for peer, number in zip(peers, (0, 1, 0, 1), strict=True)]
    assert lists == [["3"], ["4"], ["1"], ["2"]]
    await peers[0].send("2", b"offer")
    await peers[0].hears(lambda: bool(peers[0].refused))
    assert peers[0].refused == [("2", "PEER_NOT_CONNECTED")]


async def test_an_unknown_task_is_refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(TaskNotFound, match="There is no task nowhere"):
        await Peer().connect(channel, task_id="nowhere")


async def test_a_federated_task_is_refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(WrongScheme, match="The task federated is federated"):
        await Peer().connect(channel, task_id="federated")


@pytest.mark.parametrize(
    "start",
    [
        ConnectRequest.StartSession(task_id="../peers"),
        ConnectRequest.StartSession(task_id="peers", peer_id="a b"),
        ConnectRequest.StartSession(task_id="peers", client_id="é"),
        ConnectRequest.StartSession(task_id="peers", peer_protocol="a b"),
    ],
)
async def test_what_is_no_id_is_refused(channel: grpc.aio.Channel, start: ConnectRequest.StartSession) -> None:
    call = signaling_service_pb2_grpc.SignalingServiceStub(channel).Connect()
    await call.write(ConnectRequest(start_session=start))
    with pytest.raises(InvalidId):
        await call.read()


@pytest.mark.parametrize(
    "first", [ConnectRequest(), ConnectRequest(mark_ready=ConnectRequest.MarkReady())], ids=["empty", "mark_ready"]
)
async def test_the_first_message_must_start_the_session(channel: grpc.aio.Channel, first: ConnectRequest) -> None:
    call = signaling_service_pb2_grpc.SignalingServiceStub(channel).Connect()
    await call.write(first)
    with pytest.raises(MalformedMessage, match="the first message must be start_session"):
        await call.read()


async def test_a_stream_on_which_nothing_is_said_is_ended(
    channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servicer, "FIRST_MESSAGE_S", 0.05)
    call = signaling_service_pb2_grpc.SignalingServiceStub(channel).Connect()
    with pytest.raises(MalformedMessage, match="no start_session came"):
        await call.read()


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (ConnectRequest(), "the message is empty"),
        (ConnectRequest(start_session=ConnectRequest.StartSession(task_id="peers")), "the session is open already"),
    ],
)
async def test_a_message_out_of_place_ends_the_stream_and_keeps_the_seat(
    channel: grpc.aio.Channel, request_: ConnectRequest, problem: str
) -> None:
    [one] = await connected(channel, 1)
    await one.call.write(request_)
    await one.over()
    assert isinstance(one.error, MalformedMessage)
    assert problem in str(one.error)
    await one.connect(channel)
    assert (one.peer_id, one.started.resumed, one.started.peers_present) == ("1", True, 1)


async def test_patience_that_is_none_is_refused(channel: grpc.aio.Channel) -> None:
    [one] = await connected(channel, 1)
    await one.mark_ready(patience_s=-1.0)
    await one.over()
    assert str(one.error).endswith("patience must be above 0.")


async def test_a_signal_that_cannot_go_is_refused_and_costs_nothing_else(
    channel: grpc.aio.Channel, replica: Replica
) -> None:
    one, two = await connected(channel, 2)
    await one.send("2", b"not introduced")
    await one.send("99", b"nobody")
    await one.send("no id", b"")
    await one.mark_ready()
    await two.mark_ready()
    await one.hears_list(0)
    await one.send("2", bytes(64 * 1024 + 1))
    await one.send("2", bytes(64 * 1024))
    await two.hears(lambda: len(two.signals) == 1)
    await one.hears(lambda: len(one.refused) == 4)
    assert one.refused == [
        ("2", "PEER_NOT_CONNECTED"),
        ("99", "PEER_NOT_CONNECTED"),
        ("", "INVALID_ID"),
        ("2", "TOO_LARGE"),
    ]
    assert two.signals == [("1", bytes(64 * 1024))]
    assert replica.signals("refused") == 3


async def test_peers_of_another_task_are_out_of_reach(channel: grpc.aio.Channel, tmp_path: Path) -> None:
    await keep_task(tmp_path, a_task("others"))
    one, two = await connected(channel, 2)
    three, four = await connected(channel, 2, task_id="others")
    for peer in (one, two, three, four):
        await peer.mark_ready()
    assert await one.hears_list(0) == ["2"]
    assert await three.hears_list(0) == ["4"]
    await one.send("3", b"hello")
    await one.hears(lambda: one.refused == [("3", "PEER_NOT_CONNECTED")])


async def test_a_newer_stream_with_the_token_takes_over(channel: grpc.aio.Channel) -> None:
    one, two = await connected(channel, 2)
    await one.mark_ready()
    again = await Peer(started=one.started).connect(channel)
    await one.over()
    assert isinstance(one.error, PeerReplaced)
    assert again.started == type(again.started)(
        peer_id="1", session_token=one.started.session_token, resumed=True, peers_present=2, min_peers=2
    )
    await two.mark_ready()
    assert await again.hears_list(0) == ["2"]
    assert one.lists == {}


async def test_a_wrong_token_gets_a_new_id(channel: grpc.aio.Channel) -> None:
    [one] = await connected(channel, 1)
    stranger = Peer()
    stranger.started.peer_id, stranger.started.session_token = "1", "guessed"
    await stranger.connect(channel)
    assert stranger.started.resumed is False
    assert stranger.peer_id == "2"
    assert not one.listening.done()


async def test_a_client_id_gives_the_seat_back_without_a_token(channel: grpc.aio.Channel) -> None:
    one = await Peer().connect(channel, client_id="laptop")
    await Peer().connect(channel, client_id="phone")
    again = await Peer().connect(channel, client_id="laptop", knows_token=False)
    await one.over()
    assert isinstance(one.error, PeerReplaced)
    assert (again.peer_id, again.started.resumed, again.started.peers_present) == ("1", True, 2)
    assert again.started.session_token != one.started.session_token
    one.error = None
    await one.connect(channel)
    assert one.started.resumed is False, "the earlier token is worth nothing now"


async def test_a_seat_that_was_given_up_does_not_come_back(channel: grpc.aio.Channel) -> None:
    [one] = await connected(channel, 1)
    await one.end_session()
    assert one.error is None
    await one.connect(channel)
    assert (one.peer_id, one.started.resumed, one.started.peers_present) == ("2", False, 1)


async def test_a_peer_that_says_no_more_but_does_not_leave_keeps_its_seat(channel: grpc.aio.Channel) -> None:
    [one] = await connected(channel, 1)
    await one.call.done_writing()
    await one.over()
    assert one.error is None
    await one.connect(channel)
    assert one.started.resumed is True


async def test_a_process_that_stops_ends_its_streams_and_keeps_their_seats(tmp_path: Path) -> None:
    await keep_task(tmp_path, a_task())
    store = MemoryPeerStore()
    async with running_replica(store, tmp_path, name="first") as first, channel_to(first) as [channel]:
        peers = await connected(channel, 3)
        await peers[0].mark_ready()
        await eventually(lambda: is_ready(store, "1"))
        first.stop.set()
        await asyncio.gather(*(peer.over() for peer in peers))
    assert [type(peer.error) for peer in peers] == [ShuttingDown] * 3
    async with running_replica(store, tmp_path, name="second") as second, channel_to(second) as [channel]:
        for peer in peers:
            await peer.connect(channel)
        assert [(peer.peer_id, peer.started.resumed) for peer in peers] == [("1", True), ("2", True), ("3", True)]
        await peers[1].mark_ready()
        assert await peers[0].hears_list(0) == ["2"]


async def is_ready(store: MemoryPeerStore, peer_id: str) -> bool:
    return peer_id in (await store.read_round(TASK)).marks


async def test_a_peer_of_a_deleted_task_hears_that_it_is_gone_when_it_is_ready_again(tmp_path: Path) -> None:
    # What should happen: the stream ends with TASK_NOT_FOUND, and nobody comes in any more.
    ahead = 0.0
    await keep_task(tmp_path, a_task())
    async with (
        running_replica(MemoryPeerStore(), tmp_path, clock=lambda: time.time() + ahead) as replica,
        channel_to(replica) as [channel],
        DirectoryBlobStore(tmp_path) as blobs,
    ):
        peer = await Peer().connect(channel)
        await task_updates.delete(blobs, TASK, request_id="", now=1.0)
        ahead = REMEMBERED_S
        await peer.mark_ready()
        await peer.over()
        assert isinstance(peer.error, TaskNotFound)
        with pytest.raises(TaskNotFound):
            await Peer().connect(channel)
