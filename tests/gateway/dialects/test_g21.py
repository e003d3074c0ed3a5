import math

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.dialects.g21 import G21
from gateway.dialects.messages import (
    ClientMessage,
    Contribute,
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
    Welcome,
)
from learning.refusals import InvalidWeights, MalformedMessage, TooLarge, WeightsNotFinite
from tests.gateway.dialects.worked_example import ARRAY, COMPACT, SHAPES, WEIGHTS

LIMIT = 1 << 20
g21 = G21()
pack = msgspec.msgpack.encode

CONTRIBUTION = bytes.fromhex("83a47479706508a777656967687473") + ARRAY + bytes.fromhex("a5726f756e6400")
SIGNAL = {"type": "offer", "sdp": "v=0\r\na=max-message-size:262144", "candidate": None, "lines": [1, 2.5, True]}


def contribution(document: object, **fields: object) -> bytes:
    return pack({"type": 8, "weights": list(pack(document)), "round": 0} | fields)


def understood(frame: bytes) -> ClientMessage:
    """What a frame to a federated task says; raises also what is wrong with the weights alone."""
    message = g21.decode_federated(frame, LIMIT)
    if isinstance(message, UnusableContribution):
        raise message.refusal
    return message


def test_the_contribution_of_the_worked_example_is_read() -> None:
    assert len(CONTRIBUTION) == 80
    message = g21.decode_federated(CONTRIBUTION, LIMIT)
    assert isinstance(message, Contribute)
    assert (bytes(message.weights), message.shapes, message.round) == (WEIGHTS, SHAPES, 0)


def test_a_contribution_may_carry_bin_and_order_its_fields_at_will() -> None:
    frame = pack({"more": [1], "round": 3, "weights": msgspec.Raw(COMPACT), "type": 8})
    message = g21.decode_federated(frame, LIMIT)
    assert isinstance(message, Contribute)
    assert (bytes(message.weights), message.shapes, message.round) == (WEIGHTS, SHAPES, 3)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (bytes.fromhex("81a47479706500"), Hello()),
        (pack({"type": 13}), PullStatistics()),
        (pack({"type": 11, "extra": {"a": [None]}}), PullLatest()),
        (
            pack({"type": 9, "taskId": "t", "clientId": "c", "round": 2, "metadataId": "key", "metadata": "value"}),
            PutMetadata(2, "key", "value"),
        ),
        (pack({"type": 10, "taskId": "t", "clientId": "c", "round": 2, "metadataId": "key"}), PullMetadata(2, "key")),
    ],
)
def test_every_message_to_a_federated_task_is_read(frame: bytes, message: ClientMessage) -> None:
    assert g21.decode_federated(frame, LIMIT) == message


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (bytes.fromhex("81a47479706500"), Hello()),
        (pack({"type": 3}), MarkReady()),
        (pack({"type": 2, "peer": 12, "signal": SIGNAL}), SignalTo("12", pack(SIGNAL))),
    ],
)
def test_every_message_to_a_decentralized_task_is_read(frame: bytes, message: ClientMessage) -> None:
    assert g21.decode_decentralized(frame) == message


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (Welcome("c"), {"type": 0}),
        (PeerWelcome("7"), {"type": 1, "id": 7}),
        (PeersForRound(("0", "300"), 5), {"type": 4, "peers": [0, 300]}),
        (SignalFrom("3", pack(SIGNAL)), {"type": 2, "peer": 3, "signal": SIGNAL}),
        (
            Statistics(4, 2, 9, 2.25),
            {
                "type": 13,
                "statistics": {
                    "round": 4,
                    "currentNumberOfParticipants": 2,
                    "totalNumberOfParticipants": 9,
                    "averageNumberOfParticipants": 2.25,
                },
            },
        ),
        (
            MetadataMap("t", "c", 2, "key", (("c", "1"), ("d", "2"))),
            {
                "type": 10,
                "taskId": "t",
                "clientId": "c",
                "round": 2,
                "metadataId": "key",
                "metadataMap": [["c", "1"], ["d", "2"]],
            },
        ),
    ],
)
def test_every_message_to_a_client_is_written(message: ServerMessage, fields: dict[str, object]) -> None:
    assert g21.encode(message) == pack(fields)


def test_encoded_weights_are_spliced_into_the_newest_version_as_they_are() -> None:
    body = g21.encode_weights(WEIGHTS, SHAPES)
    assert body == COMPACT
    expected = bytes.fromhex("83 a474797065 0b a5726f756e64 01 a777656967687473") + COMPACT
    assert g21.encode(Latest(1, body)) == expected


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (b"", "ends too early"),
        (b"\xc1", "a map was expected"),
        (b"\x90", "a map was expected"),
        (b"{}", "a map was expected"),
        (b"\x81\x01\x02", "a text was expected"),
        (pack({}), "no field 'type'"),
        (pack({"type": "0"}), "a number was expected"),
        (pack({"type": 0.5}), "a whole number"),
        (pack({"type": 12}), "type 12 is no message to a federated task"),
        (pack({"type": 3}), "type 3 is no message to a federated task"),
        (pack({"type": 0}) + b"\x00", "bytes follow"),
        (b"\x82\xa4type\x00\xa4type\x00", "'type' twice"),
        (pack({"type": 8, "round": 0}), "no field 'weights'"),
        (pack({"type": 8, "weights": None, "round": 0}), "an array of bytes was expected"),
        (pack({"type": 8, "weights": [1, 256], "round": 0}), "something else than integers"),
        (pack({"type": 8, "weights": [1, 2.5], "round": 0}), "something else than integers"),
        (pack({"type": 8, "weights": [0x90]}), "no field 'round'"),
        (pack({"type": 8, "weights": [0x90], "round": -1}), "a whole number"),
        (pack({"type": 9, "round": 0, "metadataId": 5, "metadata": ""}), "a text was expected"),
        (b"\x81\xa4type" + b"\x91" * 100_000, "nested deeper than 64 levels"),
        (b"\xdf\xff\xff\xff\xff", "ends too early"),
        (b"\x81\xa7weights\xdd\xff\xff\xff\xff\x00", "announces 4294967295 bytes"),
        (b"\x81\xa7weights\xc6\xff\xff\xff\xff\x00", "ends too early"),
    ],
)
def test_a_frame_to_a_federated_task_that_is_no_message_is_malformed(frame: bytes, problem: str) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        understood(frame)
    assert problem in refusal.value.variables["problem"]


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (pack({"type": 8, "weights": [0x90], "round": 0}), "type 8 is no message to a decentralized task"),
        (pack({"type": 2, "signal": {}}), "no field 'peer'"),
        (pack({"type": 2, "peer": 1}), "no field 'signal'"),
        (pack({"type": 2, "peer": "1", "signal": {}}), "a number was expected"),
        (pack({"type": 2, "peer": 1, "signal": None}), "the signal is no map"),
        (pack({"type": 2, "peer": 1, "signal": {"a": msgspec.msgpack.Ext(10, b"(")}}), "0xd4"),
    ],
)
def test_a_frame_to_a_decentralized_task_that_is_no_message_is_malformed(frame: bytes, problem: str) -> None:
    with pytest.raises(MalformedMessage) as refusal:
        g21.decode_decentralized(frame)
    assert problem in refusal.value.variables["problem"]


def test_weights_that_are_no_weights_are_refused_by_name() -> None:
    with pytest.raises(InvalidWeights):
        understood(contribution([{"shape": [2], "data": [1]}]))
    with pytest.raises(WeightsNotFinite):
        understood(contribution([{"shape": [1], "data": [math.nan]}]))


def test_a_contribution_without_use_keeps_its_round() -> None:
    message = g21.decode_federated(contribution([{"shape": [1], "data": [math.nan]}], round=4), LIMIT)
    assert isinstance(message, UnusableContribution)
    assert message.round == 4


def test_frames_beyond_the_limit_are_refused() -> None:
    with pytest.raises(TooLarge):
        g21.decode_federated(CONTRIBUTION, len(CONTRIBUTION) - 1)
    with pytest.raises(TooLarge):
        g21.decode_decentralized(pack({"type": 2, "peer": 1, "signal": {"sdp": "v" * 65_536}}))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=10)
    | st.binary(max_size=20)
    | st.builds(msgspec.msgpack.Ext, st.integers(0, 127), st.binary(max_size=8)),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner, max_size=6),
    max_leaves=20,
)
tensors = st.lists(
    st.fixed_dictionaries({"shape": anything | st.lists(st.integers(-2, 2**64 - 1)), "data": anything}), max_size=4
)
FIELDS = ("type", "round", "weights", "peer", "signal", "metadataId", "metadata")
documents = (tensors | anything).map(pack).map(list)
wrong_types = st.dictionaries(st.sampled_from(FIELDS), anything | documents | st.integers(0, 13)).map(pack)
VALID = [
    CONTRIBUTION,
    contribution([{"shape": [3], "data": [0.5, 0, 1]}]),
    pack({"type": 8, "weights": msgspec.Raw(COMPACT), "round": 0}),
    pack({"type": 9, "round": 2, "metadataId": "key", "metadata": "value"}),
    pack({"type": 2, "peer": 12, "signal": SIGNAL}),
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


@given(st.binary(max_size=200) | mutated | wrong_types)
@example(b"\x81\xa7weights\xdd\xff\xff\xff\xff\xcc")
@example(pack({"type": 8, "round": 0, "weights": b"\xdd\xff\xff\xff\xff"}))
@example(pack({"type": 8, "round": 0, "weights": b"\x91\x82\xa5shape\x91\x01\xa4data" + b"\x91" * 5000}))
@example(pack({"type": 8, "round": 0, "weights": b"\x91" + b"\x81\xa1a" * 5000}))
def test_whatever_the_bytes_are_the_decoders_answer_or_refuse_by_name(frame: bytes) -> None:
    for decode in (lambda data: g21.decode_federated(data, LIMIT), g21.decode_decentralized):
        try:
            outcome: object = decode(frame)
        except (MalformedMessage, InvalidWeights, WeightsNotFinite, TooLarge) as refusal:
            outcome = refusal
        # A sentence for people, not an echo of what a stranger sent.
        assert isinstance(outcome, ClientMessage) or len(str(outcome)) < 1000
