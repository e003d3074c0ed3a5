"""docs/wire-protocol.md is true: its tables against the code, its frames against the whole system."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from gateway import introductions, signaling_link, web_server, websocket
from gateway.close_codes import CLOSE_CODES
from gateway.dialects import frame_reader, weights_document
from gateway.dialects.g21 import G21
from gateway.dialects.messages import (
    ClientMessage,
    Contribute,
    ContributionAnswer,
    EncodedWeights,
    EnoughParticipants,
    Hello,
    Latest,
    MarkReady,
    MetadataMap,
    PeersForRound,
    PeerWelcome,
    PullLatest,
    PullMetadata,
    PullStatistics,
    PutMetadata,
    ServerMessage,
    SignalFrom,
    SignalTo,
    Statistics,
    UnusableContribution,
    VersionedWelcome,
    Welcome,
)
from gateway.dialects.negotiation import Asked, Known, negotiate
from gateway.dialects.origin_table import origin_table
from gateway.dialects.registry import DIALECTS
from gateway.problems import STATUSES
from gateway.sessions import contributions, decentralized, federated
from gateway.settings import GatewaySettings
from learning.limits import MAX_TENSORS
from learning.refusals import DiscoError, MalformedMessage, TooLarge
from services.aggregator.servicer import MAX_METADATA_BYTES
from tests.docs.conftest import Described
from tests.docs.pages import Frame, broken_links, bytes_of, page, quoted, sessions, table

PAGE = page("wire-protocol.md")
FEDERATED, DECENTRALIZED = sessions(PAGE)
URLS = {"a": "/feai/tiny/a", "b": "/feai/tiny/b", "p": "/deai/pair", "q": "/deai/pair"}
LIMIT = 1 << 20
SECONDS = 10.0
ORIGINS = "https://app.example=g22"
REPEATED_UNTIL_TRUE = {10, 13}
"""Questions whose answer may lag behind what was just done: the page says so."""
pack = msgspec.msgpack.encode
dialect = G21()


def schemes() -> list[tuple[str, Frame]]:
    return [("federated", frame) for frame in FEDERATED] + [("decentralized", frame) for frame in DECENTRALIZED]


def decode(scheme: str, frame: bytes) -> ClientMessage:
    return dialect.decode_federated(frame, LIMIT) if scheme == "federated" else dialect.decode_decentralized(frame)


def canonical(tensors: list[dict[str, Any]]) -> tuple[bytes, tuple[tuple[int, ...], ...]]:
    values = np.array([number for tensor in tensors for number in tensor["data"]], "<f4")
    return values.tobytes(), tuple(tuple(tensor["shape"]) for tensor in tensors)


def client_message(scheme: str, said: dict[str, Any]) -> ClientMessage:
    match scheme, said["type"]:
        case _, 0:
            return Hello()
        case "federated", 8:
            return Contribute(*canonical(said["weights"]), said["round"])
        case "federated", 9:
            return PutMetadata(said["round"], said["metadataId"], said["metadata"])
        case "federated", 10:
            return PullMetadata(said["round"], said["metadataId"])
        case "federated", 11:
            return PullLatest()
        case "federated", 13:
            return PullStatistics()
        case "decentralized", 2:
            return SignalTo(str(said["peer"]), pack(said["signal"]))
        case "decentralized", 3:
            return MarkReady()
    raise AssertionError(said)


def server_message(scheme: str, said: dict[str, Any]) -> ServerMessage:
    match scheme, said["type"]:
        case "federated", 0:
            return Welcome("a")
        case "federated", 10:
            entries = tuple((who, text) for who, text in said["metadataMap"])
            return MetadataMap(said["taskId"], said["clientId"], said["round"], said["metadataId"], entries)
        case "federated", 11:
            return Latest(said["round"], dialect.encode_weights(*canonical(said["weights"])))
        case "federated", 13:
            return Statistics(*said["statistics"].values())
        case "decentralized", 1:
            return PeerWelcome(str(said["id"]))
        case "decentralized", 2:
            return SignalFrom(str(said["peer"]), pack(said["signal"]))
        case "decentralized", 4:
            return PeersForRound(tuple(map(str, said["peers"])), 0)
    raise AssertionError(said)


def test_links_lead_somewhere() -> None:
    assert broken_links("wire-protocol.md") == []


@pytest.mark.parametrize(("scheme", "frame"), [one for one in schemes() if one[1].said])
def test_what_stands_below_a_frame_is_what_it_says(scheme: str, frame: Frame) -> None:
    decoded = msgspec.msgpack.decode(frame.data)
    if "weights" in decoded:
        decoded["weights"] = msgspec.msgpack.decode(bytes(decoded["weights"]))
    assert json.dumps(decoded) == json.dumps(frame.said)  # as texts, since 1 and 1.0 are spelled differently


@pytest.mark.parametrize(("scheme", "frame"), [one for one in schemes() if one[1].is_sent])
def test_frames_of_clients_are_read_by_the_dialect(scheme: str, frame: Frame) -> None:
    if frame.said is None:
        with pytest.raises(MalformedMessage):
            decode(scheme, frame.data)
        return
    message = decode(scheme, frame.data)
    if isinstance(message, Contribute):
        message = Contribute(bytes(message.weights), message.shapes, message.round)
    assert message == client_message(scheme, frame.said)


@pytest.mark.parametrize(("scheme", "frame"), [one for one in schemes() if not one[1].is_sent])
def test_frames_of_the_gateway_are_written_by_the_dialect_byte_for_byte(scheme: str, frame: Frame) -> None:
    assert frame.said is not None
    assert dialect.encode(server_message(scheme, frame.said)) == frame.data


def test_table_of_messages_has_the_fields_of_the_frames() -> None:
    told = {
        (scheme, int(kind), sender): set(quoted(fields))
        for scheme, kind, sender, fields in table(PAGE, "task", "type", "from", "fields beside `type`")
    }
    shown = {
        (scheme, frame.said["type"], "client" if frame.is_sent else "server"): frame.said.keys() - {"type"}
        for scheme, frame in schemes()
        if frame.said
    }
    assert told == shown


@pytest.mark.parametrize("scheme", ["federated", "decentralized"])
def test_no_other_type_is_read(scheme: str) -> None:
    rows = table(PAGE, "task", "type", "from", "fields beside `type`")
    told = {int(kind) for task, kind, sender, _ in rows if (task, sender) == (scheme, "client")}

    def is_message(kind: int) -> bool:
        try:
            decode(scheme, pack({"type": kind}))
        except MalformedMessage as refusal:
            return "is no message" not in str(refusal)
        return True

    assert {kind for kind in range(256) if is_message(kind)} == told


@pytest.mark.parametrize(("rule", "request_", "dialect_"), table(PAGE, "rule", "request", "dialect"))
def test_negotiation_decides_as_the_table_says(rule: str, request_: str, dialect_: str) -> None:
    line, *header = quoted(request_)
    method, _, url = line.partition(" ")
    path, _, query = url.partition("?")
    headers = dict(re.findall(r"(\S+): (.+)", text)[0] for text in header)
    subprotocols = (headers.pop("Sec-WebSocket-Protocol", ""),)
    lower = {name.lower(): value for name, value in headers.items()}
    known = Known(origin_table(ORIGINS), pin=lower.pop("pinned", ""), remembered=lower.pop("remembered", ""))
    found = negotiate(Asked(path, lower, query, subprotocols, is_socket=method == "WS"), known)
    assert (found.rule, found.dialect) == (quoted(rule)[0], quoted(dialect_)[0])


def test_page_names_the_dialects_that_are_spoken_on_sockets() -> None:
    (sentence,) = re.findall(r"Spoken on sockets today: (.*?)\.(?:\s|$)", PAGE)
    assert quoted(sentence) == list(DIALECTS)


GENERATIONS = {"2.2": "g22", "3.0": "g30", "4": "gdv"}
LATER = ["generation", "task", "type", "from", "fields beside `type`"]
BODY = EncodedWeights(b"\xc4\x00")
SENT: dict[str, tuple[ServerMessage, ...]] = {
    "federated": (
        Welcome("a"),
        VersionedWelcome("a", False, 0, BODY, 1),
        EnoughParticipants(),
        ContributionAnswer(0, BODY, 1),
        MetadataMap("t", "a", 0, "k", ()),
    ),
    "decentralized": (PeerWelcome("1"), PeersForRound((), 0), SignalFrom("1", pack({}))),
}


def later(generation: str, task: str, sender: str) -> dict[int, set[str]]:
    """Types with their fields, of one generation's messages."""
    rows = [row for row in table(PAGE, *LATER) if generation in row[0].split(", ")]
    return {int(row[2]): set(quoted(row[4])) for row in rows if (row[1], row[3]) == (task, sender)}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("task", ["federated", "decentralized"])
def test_table_of_later_messages_is_what_the_dialects_speak(generation: str, task: str) -> None:
    speaks = DIALECTS[GENERATIONS[generation]]
    written: dict[int, set[str]] = {}
    for message in SENT[task]:
        try:
            fields = msgspec.msgpack.decode(speaks.encode(message))
        except AssertionError:
            continue  # this generation has no such message
        written[fields["type"]] = fields.keys() - {"type"}
    assert later(generation, task, "server") == written

    def is_read(kind: int) -> bool:
        fields = {"round": 0, "payload": b"", "key": "k", "peer": "1", "signal": {}}
        frame = pack({"type": kind, **fields})
        try:
            speaks.decode_federated(frame, LIMIT) if task == "federated" else speaks.decode_decentralized(frame)
        except MalformedMessage as refusal:
            return "is no message" not in str(refusal)
        return True

    assert set(later(generation, task, "client")) == {kind for kind in range(128) if is_read(kind)}


def test_numbers_of_later_generations_are_those_of_the_code() -> None:
    limited, patient = DIALECTS["g22"].manners, DIALECTS["gdv"].manners
    assert limited.answer_within_s is not None
    assert f"or {limited.answer_within_s - contributions.READ_WITHIN_S:g} s after it arrived" in " ".join(PAGE.split())
    assert f"are ready for {limited.peer_patience_s:g} s. Those of 2.2 and 3.0" in " ".join(PAGE.split())
    assert (patient.answer_within_s, patient.peer_patience_s) == (None, None)


def test_every_reason_has_the_status_and_the_code_of_the_code() -> None:
    rows = table(PAGE, *["reason", "HTTP", "close code"] * 2)
    cells = [row[start : start + 3] for row in rows for start in (0, 3) if row[start]]
    told = {quoted(reason)[0]: (int(status), int(code)) for reason, status, code in cells}
    assert len(told) == len(cells)
    assert told == {reason: (int(status), CLOSE_CODES[reason]) for reason, status in STATUSES.items()}


def limit_of_peer_frames() -> str:
    with pytest.raises(TooLarge) as refusal:
        dialect.decode_decentralized(bytes(LIMIT))
    return refusal.value.variables["limit_bytes"]


def test_limits_are_those_of_the_code() -> None:
    assert MAX_METADATA_BYTES == frame_reader.MAX_TEXT_BYTES
    assert dict(table(PAGE, "limit", "value")) == {
        "a frame of a federated task, and its weights as float32": (
            "`DISCO_MAX_MESSAGE_BYTES`; a larger frame closes the socket with 1009"
        ),
        "a frame of a decentralized task": f"{limit_of_peer_frames()} bytes",
        "`metadata`, and any other text": f"{MAX_METADATA_BYTES} bytes",
        "questions of one kind without an answer yet": f"{federated.MAX_UNANSWERED}",
        "contributions that wait behind the one on its way": "1",
        "tensors; dimensions of one": f"{MAX_TENSORS}; {weights_document.MAX_DIMENSIONS}",
        "nesting of a frame; items beside weights": f"{frame_reader.MAX_DEPTH}; {frame_reader.MAX_ITEMS}",
        "signals kept for a peer": (
            f"{decentralized.MAX_SIGNALS_KEPT} or {decentralized.MAX_BYTES_KEPT} bytes, "
            f"{decentralized.SIGNAL_WAITS_S:g} s"
        ),
        "frames not yet read by you": f"{websocket.MAX_FRAMES_WAITING} or `DISCO_MAX_MESSAGE_BYTES`",
        "hold of 11; longest wait for any answer": (
            f"{GatewaySettings.model_fields['poll_hold_s'].default:g} s; {federated.ANSWER_WITHIN_S:g} s"
        ),
    }


def test_numbers_in_the_prose_are_those_of_the_code() -> None:
    said = " ".join(PAGE.split())
    for sentence in (
        f"after {federated.ANSWER_WITHIN_S:g} s in any case",
        f"held for `DISCO_POLL_HOLD_S` ({GatewaySettings.model_fields['poll_hold_s'].default:g} s)",
        f"You are ready for {dialect.manners.peer_patience_s:g} s",
        f"before {decentralized.LIST_SETTLES_S * 1000:g} ms after the first list that names it",
        f"a WebSocket ping that follows the 3, or after {signaling_link.ATTENDS_WITHIN_S:g} s",
        f"the others get theirs {introductions.GATHER_S:g} s later",
        f"earlier wait, for {decentralized.SIGNAL_WAITS_S:g} s at most",
        f"pings every {web_server.PING_S:g} s",
        f"acknowledges nothing for {web_server.UNACKNOWLEDGED_S} s",
    ):
        assert sentence in said


@pytest.mark.parametrize(("frame", "reason"), table(PAGE, "frame", "reason"))
def test_frames_that_are_no_messages_have_their_reason(frame: str, reason: str) -> None:
    if quoted(frame) == ["text frame"]:
        return  # it never reaches a dialect; below it is sent
    try:
        message = dialect.decode_federated(bytes_of(quoted(frame)[0]), LIMIT)
    except DiscoError as error:
        refusal = error
    else:
        assert isinstance(message, UnusableContribution)
        refusal = message.refusal
    assert refusal.reason == quoted(reason)[0]


# Against the whole system.


async def hear(socket: ClientConnection) -> bytes:
    async with asyncio.timeout(SECONDS):
        frame = await socket.recv()
    assert isinstance(frame, bytes)
    return frame


async def expect(socket: ClientConnection, frame: Frame, question: Frame | None) -> None:
    """Hears `frame`; a question whose answer may lag is asked again until the answer is that."""
    heard = await hear(socket)
    end = asyncio.get_running_loop().time() + SECONDS
    while heard != frame.data and question and asyncio.get_running_loop().time() < end:
        await socket.send(question.data)
        heard = await hear(socket)
    assert heard == frame.data


async def replay(described: Described, session: list[Frame]) -> None:
    sockets: dict[str, ClientConnection] = {}
    repeatable: dict[str, Frame] = {}
    try:
        for frame in session:
            if frame.who not in sockets:
                sockets[frame.who] = await connect(described.socket_url + URLS[frame.who])
            if frame.is_sent:
                await sockets[frame.who].send(frame.data)
                if frame.said and frame.said["type"] in REPEATED_UNTIL_TRUE:
                    repeatable[frame.who] = frame
            else:
                await expect(sockets[frame.who], frame, repeatable.pop(frame.who, None))
    finally:
        for socket in sockets.values():
            await socket.close()


@pytest.mark.asyncio(loop_scope="package")
@pytest.mark.parametrize("session", [FEDERATED, DECENTRALIZED], ids=["federated", "decentralized"])
async def test_session_happens_as_it_is_written(described: Described, session: list[Frame]) -> None:
    await replay(described, session)


@pytest.mark.asyncio(loop_scope="package")
async def test_bad_frames_cost_themselves_and_are_counted(described: Described) -> None:
    rows = [(quoted(frame)[0], quoted(reason)[0]) for frame, reason in table(PAGE, "frame", "reason")]
    before = refused(described)
    async with connect(f"{described.socket_url}/feai/tiny/c") as socket:
        await socket.send(pack({"type": 0}))
        assert await hear(socket) == pack({"type": 0})
        for frame, _ in rows:
            await socket.send("text" if frame == "text frame" else bytes_of(frame))
        await socket.send(pack({"type": 0}))
        assert await hear(socket) == pack({"type": 0})
    after = refused(described)
    counted = {reason: after[reason] - before.get(reason, 0) for reason in after}
    wanted = {reason: [found for _, found in rows].count(reason) for _, reason in rows}
    assert {reason: count for reason, count in counted.items() if count} == wanted


def refused(described: Described) -> dict[str, float]:
    pattern = r'^disco_gateway_messages_refused_total\{reason="(\w+)"\} (\S+)$'
    return {reason: float(count) for reason, count in re.findall(pattern, described.metrics("gateway"), re.M)}


@pytest.mark.asyncio(loop_scope="package")
@pytest.mark.parametrize(("request_", "status", "reason"), table(PAGE, "request", "status", "reason"))
async def test_requests_are_answered_as_the_table_says(
    described: Described, request_: str, status: str, reason: str
) -> None:
    method, _, path = quoted(request_)[0].partition(" ")
    if method == "WS":
        found, body = await upgrade(described, path)
    else:
        found, body = await asyncio.to_thread(fetch, described.system.url, method, path)
    assert found == int(status)
    if not reason:
        return
    document = json.loads(body)
    assert document["reason"] == quoted(reason)[0]
    assert document["status"] == found
    example = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.S)[0])
    if document["reason"] == example["reason"] and method == "GET":
        assert document | {"request_id": ""} == example | {"request_id": ""}


async def upgrade(described: Described, path: str) -> tuple[int, bytes]:
    try:
        async with connect(described.socket_url + path):
            return 101, b""
    except InvalidStatus as refusal:
        return refusal.response.status_code, bytes(refusal.response.body or b"")


def fetch(url: str, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=SECONDS)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
