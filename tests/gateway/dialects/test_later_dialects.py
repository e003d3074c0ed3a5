"""The dialects G22, G30 and GDV, whose clients wait for an answer to their contributions."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.dialects.dialect import Dialect
from gateway.dialects.frame_fields import MAX_PEER_FRAME_BYTES
from gateway.dialects.manners import Answering
from gateway.dialects.messages import (
    ClientMessage,
    Contribute,
    ContributionAnswer,
    EnoughParticipants,
    Hello,
    JoinRound,
    Latest,
    MarkReady,
    MetadataMap,
    PeersForRound,
    PeerWelcome,
    PullMetadata,
    ServerMessage,
    SignalFrom,
    SignalTo,
    UnusableContribution,
    VersionedWelcome,
    Welcome,
)
from gateway.dialects.registry import DIALECTS
from learning.refusals import InvalidWeights, MalformedMessage, TooLarge, WeightsNotFinite
from tests.gateway.dialects.worked_example import ARRAY, COMPACT, FLOAT32_ARRAYS, SHAPES, WEIGHTS

LIMIT = 1 << 20
LATER = ("g22", "g30", "gdv")
CONTRIBUTION_TYPE = {"g22": 6, "g30": 6, "gdv": 10}
SIGNAL_TYPE = {"g22": 2, "g30": 2, "gdv": 5}
SIGNAL = {"type": "offer", "sdp": "v=0\r\na=max-message-size:262144", "candidate": None, "lines": [1, 2.5, True]}
ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
pack = msgspec.msgpack.encode
every_later = pytest.mark.parametrize("dialect", [DIALECTS[name] for name in LATER], ids=LATER)


def contribution(dialect: Dialect, payload: object, **fields: object) -> bytes:
    return pack({"type": CONTRIBUTION_TYPE[dialect.name], "payload": payload, "round": 0} | fields)


# The worked example, byte for byte.


@pytest.mark.parametrize(
    ("name", "frame", "size"),
    [
        ("g22", bytes.fromhex("83a47479706506a77061796c6f6164") + ARRAY + bytes.fromhex("a5726f756e6400"), 80),
        ("g30", bytes.fromhex("83a47479706506a77061796c6f6164") + ARRAY + bytes.fromhex("a5726f756e6400"), 80),
        ("gdv", bytes.fromhex("83a4747970650aa77061796c6f6164") + FLOAT32_ARRAYS + bytes.fromhex("a5726f756e6400"), 69),
    ],
)
def test_the_contribution_of_the_worked_example_is_read(name: str, frame: bytes, size: int) -> None:
    assert len(frame) == size
    message = DIALECTS[name].decode_federated(frame, LIMIT)
    assert isinstance(message, Contribute)
    assert (bytes(message.weights), message.shapes, message.round) == (WEIGHTS, SHAPES, 0)


@pytest.mark.parametrize(
    ("name", "round", "head", "payload", "tail", "size"),
    [
        ("g22", 0, "83a47479706508a5726f756e6400a77061796c6f6164", COMPACT, "", 70),
        (
            "g30",
            0,
            "84a47479706507a5726f756e6400a77061796c6f6164",
            COMPACT,
            "b06e624f665061727469636970616e747302",
            88,
        ),
        (
            "gdv",
            1,
            "84a4747970650ba5726f756e6401a77061796c6f6164",
            FLOAT32_ARRAYS,
            "b06e624f665061727469636970616e747302",
            87,
        ),
    ],
)
def test_the_answer_of_the_worked_example_is_written(
    name: str, round: int, head: str, payload: bytes, tail: str, size: int
) -> None:
    dialect = DIALECTS[name]
    body = dialect.encode_weights(WEIGHTS, SHAPES)
    assert body == payload
    frame = dialect.encode(ContributionAnswer(round, body, 2))
    assert frame == bytes.fromhex(head) + payload + bytes.fromhex(tail)
    assert len(frame) == size


def test_the_welcome_of_gdv_brings_the_version() -> None:
    gdv = DIALECTS["gdv"]
    body = gdv.encode_weights(WEIGHTS, SHAPES)
    frame = gdv.encode(VersionedWelcome(ID, True, 7, body, 3))
    assert frame == (
        bytes.fromhex("86 a47479706507 a26964 d924")
        + ID.encode()
        # waitForMoreParticipants, payload, round, nbOfParticipants
        + bytes.fromhex("b777616974466f724d6f72655061727469636970616e7473c3 a77061796c6f6164")
        + FLOAT32_ARRAYS
        + bytes.fromhex("a5726f756e6407 b06e624f665061727469636970616e747303")
    )


# Every other message.


@every_later
def test_hello_is_read_on_both_kinds_of_tasks(dialect: Dialect) -> None:
    frame = bytes.fromhex("81a47479706500")
    assert dialect.decode_federated(frame, LIMIT) == dialect.decode_decentralized(frame) == Hello()


@every_later
def test_messages_of_peers_are_read(dialect: Dialect) -> None:
    signal = pack({"type": SIGNAL_TYPE[dialect.name], "peer": "12", "signal": SIGNAL})
    assert dialect.decode_decentralized(signal) == SignalTo("12", pack(SIGNAL))
    assert dialect.decode_decentralized(pack({"type": 3})) == MarkReady()


def test_only_gdv_joins_rounds() -> None:
    assert DIALECTS["gdv"].decode_decentralized(pack({"type": 2})) == JoinRound()


def test_only_g22_asks_for_metadata() -> None:
    frame = pack({"type": 7, "taskId": "t", "nodeId": "n", "round": 2, "key": "k"})
    assert DIALECTS["g22"].decode_federated(frame, LIMIT) == PullMetadata(2, "k")
    for name in ("g30", "gdv"):
        with pytest.raises(MalformedMessage):
            DIALECTS[name].decode_federated(frame, LIMIT)


@pytest.mark.parametrize(
    ("names", "message", "fields"),
    [
        (("g22", "g30"), Welcome(ID), {"type": 1, "id": ID}),
        (("g22", "g30"), PeerWelcome("7"), {"type": 1, "id": "7"}),
        (("g22", "g30"), PeersForRound(("8", "12"), 5), {"type": 4, "peers": ["8", "12"]}),
        (("g22", "g30"), SignalFrom("8", pack(SIGNAL)), {"type": 2, "peer": "8", "signal": SIGNAL}),
        (
            ("g22",),
            MetadataMap("t", "n", 2, "k", (("n", "1"), ("m", "2"))),
            {"type": 7, "taskId": "t", "nodeId": "n", "round": 2, "key": "k", "metadataMap": [["n", "1"], ["m", "2"]]},
        ),
        (("gdv",), PeerWelcome("7"), {"type": 1, "id": "7", "waitForMoreParticipants": False}),
        (("gdv",), PeersForRound(("8", "12"), 5), {"type": 4, "peers": ["8", "12"], "aggregationRound": 5}),
        (("gdv",), SignalFrom("8", pack(SIGNAL)), {"type": 5, "peer": "8", "signal": SIGNAL}),
        (("gdv",), EnoughParticipants(), {"type": 9}),
    ],
)
def test_every_message_to_a_client_is_written(
    names: tuple[str, ...], message: ServerMessage, fields: dict[str, object]
) -> None:
    for name in names:
        assert DIALECTS[name].encode(message) == pack(fields)


@every_later
def test_a_message_that_a_generation_does_not_know_is_never_written(dialect: Dialect) -> None:
    # Clients throw at what they do not know, and a process of theirs dies of it.
    with pytest.raises(AssertionError):
        dialect.encode(Latest(0, dialect.encode_weights(WEIGHTS, SHAPES)))


def test_a_generation_that_gets_no_answers_is_never_told_that_there_are_enough() -> None:
    for name in ("g21", "g22", "g30"):
        with pytest.raises(AssertionError):
            DIALECTS[name].encode(EnoughParticipants())


# What cannot be used.


@every_later
@pytest.mark.parametrize(
    ("payload", "refusal"),
    [
        (pack([{"shape": [2], "data": [1]}]), InvalidWeights),
        (pack([{"shape": [1], "data": [math.nan]}]), WeightsNotFinite),
        (pack([{"shape": [1 << 20], "data": []}]), TooLarge),
        (pack({}), InvalidWeights),
        (b"", InvalidWeights),
        (None, MalformedMessage),
        ("text", MalformedMessage),
        ([1, 256], MalformedMessage),
    ],
)
def test_a_contribution_that_cannot_be_used_is_still_one_that_wants_an_answer(
    dialect: Dialect, payload: object, refusal: type[Exception]
) -> None:
    message = dialect.decode_federated(contribution(dialect, payload, round=4), LIMIT)
    assert isinstance(message, UnusableContribution)
    assert message.round == 4
    assert isinstance(message.refusal, refusal)


@every_later
@pytest.mark.parametrize(
    "fields", [{"type": 1}, {"type": 8}, {"type": 99}, {"type": "0"}, {}, {"payload": b"\x90", "round": 0}]
)
def test_a_frame_that_is_no_message_is_malformed(dialect: Dialect, fields: dict[str, object]) -> None:
    for decode in (lambda data: dialect.decode_federated(data, LIMIT), dialect.decode_decentralized):
        with pytest.raises(MalformedMessage):
            decode(pack(fields))


@every_later
def test_frames_beyond_the_limit_are_refused(dialect: Dialect) -> None:
    frame = contribution(dialect, b"\x90")
    with pytest.raises(TooLarge):
        dialect.decode_federated(frame, len(frame) - 1)
    signal = {"type": SIGNAL_TYPE[dialect.name], "peer": "1", "signal": {"sdp": "v" * MAX_PEER_FRAME_BYTES}}
    with pytest.raises(TooLarge):
        dialect.decode_decentralized(pack(signal))


@every_later
def test_peers_are_texts(dialect: Dialect) -> None:
    with pytest.raises(MalformedMessage):
        dialect.decode_decentralized(pack({"type": SIGNAL_TYPE[dialect.name], "peer": 1, "signal": {}}))


# Whatever comes.

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=10)
    | st.binary(max_size=20)
    | st.builds(msgspec.msgpack.Ext, st.sampled_from([0x17, 0x1A, 5]), st.binary(max_size=8)),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner, max_size=6),
    max_leaves=20,
)
tensors = st.lists(
    st.fixed_dictionaries({"shape": anything | st.lists(st.integers(0, 3), max_size=3), "data": anything}), max_size=4
)
documents = (tensors | anything).map(pack)
wrong_types = st.dictionaries(
    st.sampled_from(("type", "round", "payload", "peer", "signal", "key")),
    anything | documents | documents.map(list) | st.integers(0, 13),
).map(pack)
VALID = [
    pack({"type": 6, "payload": msgspec.Raw(ARRAY), "round": 0}),
    pack({"type": 10, "payload": msgspec.Raw(FLOAT32_ARRAYS), "round": 3}),
    pack({"type": 5, "peer": "12", "signal": SIGNAL}),
    pack({"type": 2, "peer": "12", "signal": SIGNAL}),
]


def mutate(frame: bytes, bytes_at: list[tuple[int, int]], cut: slice, twice: bool) -> bytes:
    """A valid frame with some bytes overwritten, and a piece of it left out or repeated."""
    changed = bytearray(frame)
    for place, byte in bytes_at:
        changed[place % len(changed)] = byte
    piece = changed[cut]
    return bytes(changed.replace(piece, piece + piece if twice else b"", 1)) if piece else bytes(changed)


mutated = st.builds(
    mutate,
    st.sampled_from(VALID),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    st.slices(60),
    st.booleans(),
)


@settings(deadline=None)
@given(st.binary(max_size=200) | mutated | wrong_types)
@example(b"\x83\xa4type\x0a\xa5round\x00\xa7payload\xc6\xff\xff\xff\xff\x00")
@example(b"\x83\xa4type\x0a\xa5round\x00\xa7payload" + b"\x91" * 100_000)
@example(
    pack(
        {
            "type": 10,
            "round": 0,
            "payload": b"\x91\x82\xa5shape\x91\xce\xff\xff\xff\xff\xa4data\xc9\xff\xff\xff\xff\x17",
        }
    )
)
@example(pack({"type": 10, "round": 0, "payload": b"\x91\x82\xa5shape\x91\x01\xa4data\xd6\x17\x00\x00\xc0\x7f"}))
def test_whatever_the_bytes_are_the_decoders_answer_or_refuse_by_name(frame: bytes) -> None:
    for name in LATER:
        dialect = DIALECTS[name]
        for decode in (lambda data, speak=dialect: speak.decode_federated(data, LIMIT), dialect.decode_decentralized):
            try:
                outcome: object = decode(frame)
            except (MalformedMessage, TooLarge) as refusal:
                outcome = refusal
            if isinstance(outcome, UnusableContribution):
                outcome = outcome.refusal
            # A sentence for people, not an echo of what a stranger sent.
            assert isinstance(outcome, ClientMessage) or len(str(outcome)) < 1000


def test_who_waits_for_answers_says_so() -> None:
    assert {name: dialect.manners.answering for name, dialect in DIALECTS.items()} == {
        "g21": Answering.NOTHING,
        "g22": Answering.WITH_ECHO,
        "g30": Answering.WITH_ECHO,
        "gdv": Answering.WITH_ROUND,
    }
    # G22 and G30 complete rounds with each other, nobody else does.
    assert [dialect.manners.peer_protocol for dialect in DIALECTS.values()] == ["g21", "g22", "g22", "gdv"]
