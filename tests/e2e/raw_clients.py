"""Clients of every generation, without a model to train: each follows its generation's rules, and throws where the
real client would throw, end or wait for ever (protocol sections 4.1 to 4.8).

They make their weights up, and remember what they sent and what they adopted.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

Shapes = tuple[tuple[int, ...], ...]
FLOAT32_ARRAY = 0x17
NEVER_S = 60.0
"""How long a test waits where a client waits for ever."""
pack = msgspec.msgpack.encode


class RuleBroken(Exception):
    """What the server sent, or did not send in time, would have broken the real client."""


def lite_document(weights: np.ndarray, shapes: Shapes) -> list[int]:
    """Weights as msgpack-lite writes them: whole numbers as integers, others as float64, and all of it byte by byte."""
    return list(pack([{"shape": shape, "data": _lite_numbers(part)} for shape, part in split(weights, shapes)]))


def _lite_numbers(values: np.ndarray) -> list[int | float]:
    return [int(value) if value.is_integer() else value for value in values.tolist()]


def lite_weights(payload: object) -> np.ndarray:
    """Reads what msgpack-lite reads: bin or an array of bytes, and numbers of any spelling."""
    if not isinstance(payload, bytes | list):
        raise RuleBroken(f"weights that are a {type(payload).__name__}")
    tensors = msgspec.msgpack.decode(bytes(payload))
    return np.array([number for tensor in tensors for number in tensor["data"]], "<f4")


def typed_document(weights: np.ndarray, shapes: Shapes) -> bytes:
    """Weights as GDV writes them: typed arrays of float32, carried as bin."""
    return pack(
        [
            {"shape": shape, "data": msgspec.msgpack.Ext(FLOAT32_ARRAY, part.tobytes())}
            for shape, part in split(weights, shapes)
        ]
    )


def typed_weights(payload: object) -> np.ndarray:
    if not isinstance(payload, bytes):
        raise RuleBroken(f"weights that are a {type(payload).__name__}")
    parts = []
    for tensor in msgspec.msgpack.decode(payload):
        data = tensor["data"]
        if not isinstance(data, msgspec.msgpack.Ext) or data.code != FLOAT32_ARRAY:
            raise RuleBroken("weights that are no Float32Array")
        parts.append(np.frombuffer(data.data, "<f4"))
        if parts[-1].size != math.prod(tensor["shape"]):
            raise RuleBroken("a tensor of another size than its shape")
    return np.concatenate(parts)


def split(weights: np.ndarray, shapes: Shapes) -> list[tuple[tuple[int, ...], np.ndarray]]:
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    return list(zip(shapes, np.split(weights, ends), strict=True))


@dataclass
class RawSocket:
    """A socket that speaks msgpack maps. `knows` are the types that the generation's validator lets through."""

    url: str
    knows: frozenset[int]
    socket: ClientConnection = field(init=False)

    async def open(self) -> None:
        self.socket = await connect(self.url, max_size=None, compression=None)

    async def close(self) -> None:
        await self.socket.close()

    async def say(self, **message: Any) -> None:
        await self.socket.send(pack(message))

    async def hear(self, within_s: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(within_s):
                frame = await self.socket.recv()
        except TimeoutError:
            raise RuleBroken(f"nothing came for {within_s:g} s") from None
        if not isinstance(frame, bytes):
            raise RuleBroken("a text frame")
        message: dict[str, Any] = msgspec.msgpack.decode(frame)
        if message["type"] not in self.knows:
            raise RuleBroken(f"type {message['type']}, which this generation does not know")
        return message

    async def hear_type(self, kind: int, within_s: float) -> dict[str, Any]:
        message = await self.hear(within_s)
        if message["type"] != kind:
            raise RuleBroken(f"type {message['type']} where {kind} was expected")
        return message


@dataclass
class RawParticipant:
    """A client of a federated task. `adopted` holds the weights after each round that changed them."""

    base_url: str
    task_id: str
    shapes: Shapes
    rng: np.random.Generator
    sent: list[bytes] = field(default_factory=list)
    adopted: list[bytes] = field(default_factory=list)
    rounds: int = 0
    path: ClassVar[str]
    knows: ClassVar[frozenset[int]]

    @property
    def digests(self) -> list[str]:
        return [hashlib.sha256(weights).hexdigest() for weights in self.sent]

    def url(self) -> str:
        return f"{self.base_url}{self.path}/{self.task_id}"

    async def __aenter__(self) -> Self:
        self.channel = RawSocket(self.url(), self.knows)
        await self.channel.open()
        await self.greet()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    def train(self) -> np.ndarray:
        weights = self.rng.normal(size=sum(math.prod(shape) for shape in self.shapes)).astype("<f4")
        weights[0] = float(self.rng.integers(-3, 4))  # msgpack-lite writes whole numbers in another way
        self.sent.append(weights.tobytes())
        return weights

    def adopt(self, weights: np.ndarray) -> None:
        self.adopted.append(weights.astype("<f4").tobytes())

    async def greet(self) -> None:
        raise NotImplementedError

    async def exchange(self, weights: np.ndarray) -> None:
        """One end of a local round: contributes, and waits as long as this generation waits."""
        raise NotImplementedError

    async def run(self, rounds: int) -> None:
        for _ in range(rounds):
            await self.exchange(self.train())
            self.rounds += 1


class G21Participant(RawParticipant):
    """Posts and pulls; adopts an answer only where its round is greater than its own."""

    path = "feai"
    knows = frozenset({0, 8, 9, 10, 11, 13})
    round = 0

    def url(self) -> str:
        return f"{super().url()}/{self.rng.integers(1 << 62):032x}"

    async def greet(self) -> None:
        await self.channel.say(type=0)
        await self.channel.hear_type(0, 10)

    async def exchange(self, weights: np.ndarray) -> None:
        await self.channel.say(type=8, weights=lite_document(weights, self.shapes), round=self.round)
        await self.channel.say(type=13)
        await self.channel.hear_type(13, 10)
        await self.channel.say(type=11)
        answer = await self.channel.hear_type(11, 10)
        if answer["round"] > self.round:
            self.round = answer["round"]
            self.adopt(lite_weights(answer["weights"]))


class G22Participant(RawParticipant):
    """Contributes and waits 15 seconds for an answer with a number that is not below its own."""

    path = "v2.2/feai"
    knows = frozenset({0, 1, 6, 7, 8})
    answer_type: ClassVar[int] = 8
    round = 0

    async def greet(self) -> None:
        await self.channel.say(type=0)
        if not isinstance((await self.channel.hear_type(1, 15))["id"], str):
            raise RuleBroken("an id that is no text")

    async def exchange(self, weights: np.ndarray) -> None:
        began = time.monotonic()
        await self.channel.say(type=6, payload=lite_document(weights, self.shapes), round=self.round)
        answer = await self.channel.hear_type(self.answer_type, 15 - (time.monotonic() - began))
        self.check(answer)
        number = max(self.round, answer["round"])
        if answer["round"] < self.round or number - self.rounds > 0:
            raise RuleBroken(f"an answer to round {answer['round']} for a client in its round {self.round}")
        self.adopt(lite_weights(answer["payload"]))
        self.round = number + 1

    def check(self, answer: Mapping[str, Any]) -> None:
        """What only a later generation asks for."""


class G30Participant(G22Participant):
    """Without hint or prefix: `/feai/<task>`."""

    path = "feai"
    knows = frozenset({0, 1, 6, 7})
    answer_type = 7

    def check(self, answer: Mapping[str, Any]) -> None:
        if not answer["nbOfParticipants"] >= 1:
            raise RuleBroken("nobody takes part")


class GDVParticipant(RawParticipant):
    """Starts from the version in the welcome; waits for answers, and for enough participants, without end."""

    path = "federated"
    knows = frozenset({0, 7, 8, 9, 10, 11})
    round = 0
    must_wait = False
    was_told_to_wait = False

    async def greet(self) -> None:
        await self.channel.say(type=0)
        welcome = await self.channel.hear(15)
        if welcome["type"] == 9:
            welcome = await self.channel.hear(15)
        if welcome["type"] != 7 or not isinstance(welcome["id"], str):
            raise RuleBroken(f"{welcome['type']} instead of a welcome")
        self.must_wait = self.was_told_to_wait = welcome["waitForMoreParticipants"]
        self.adopt(typed_weights(welcome["payload"]))
        self.round = welcome["round"]

    async def exchange(self, weights: np.ndarray) -> None:
        while self.must_wait:
            self.note(await self.channel.hear(NEVER_S))
        await self.channel.say(type=10, payload=typed_document(weights, self.shapes), round=self.round)
        self.was_told_to_wait = False
        while (answer := await self.channel.hear(NEVER_S))["type"] != 11:
            self.note(answer)
        self.adopt(typed_weights(answer["payload"]))
        self.round = max(self.round, answer["round"])

    def note(self, message: Mapping[str, Any]) -> None:
        match message["type"]:
            case 8 if self.was_told_to_wait:
                raise RuleBroken("told to wait twice without having contributed in between")
            case 8:
                self.must_wait = self.was_told_to_wait = True
            case 9:
                self.must_wait = False
            case kind:
                raise RuleBroken(f"type {kind} that nobody asked for")


@dataclass
class RawPeer:
    """A client of a decentralized task, as far as the server sees it. `lists` are the peers of its rounds."""

    base_url: str
    task_id: str
    lists: list[tuple[str, ...]] = field(default_factory=list)
    peer_id: str = ""
    path: ClassVar[str]
    knows: ClassVar[frozenset[int]]
    signal_type: ClassVar[int]
    patience_s: ClassVar[float]

    async def __aenter__(self) -> Self:
        self.channel = RawSocket(f"{self.base_url}{self.path}/{self.task_id}", self.knows)
        await self.channel.open()
        await self.channel.say(type=0)
        welcome = await self.channel.hear_type(1, NEVER_S)
        if not isinstance(welcome["id"], str):
            raise RuleBroken("an id that is no text")
        self.check_welcome(welcome)
        self.peer_id = welcome["id"]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def begin_round(self) -> None:
        """What is said before the local training."""

    async def be_ready(self) -> tuple[str, ...]:
        """Says so, and waits for the peers of the round."""
        await self.channel.say(type=3)
        told = await self.channel.hear_type(4, self.patience_s)
        peers = tuple(told["peers"])
        if self.peer_id in peers or not all(isinstance(peer, str) for peer in peers):
            raise RuleBroken(f"{self.peer_id} has the peers {peers}")
        self.check_list(told)
        self.lists.append(peers)
        self.listed_at = time.monotonic()
        return peers

    async def send_signals(self, signal: Mapping[str, Any]) -> None:
        for peer in self.lists[-1]:
            await self.channel.say(type=self.signal_type, peer=peer, signal=signal)

    async def hear_signal(self) -> tuple[str, dict[str, Any]]:
        told = await self.channel.hear_type(self.signal_type, NEVER_S)
        if told["peer"] not in {peer for peers in self.lists for peer in peers}:
            raise RuleBroken("received signal for unknown peer")
        # One that comes in the same read as the list crashes the client; half of what is promised is demanded.
        if len(self.lists) == 1 and time.monotonic() - self.listed_at < 0.025:
            raise RuleBroken("a signal that comes with the list")
        return told["peer"], told["signal"]

    def check_welcome(self, welcome: Mapping[str, Any]) -> None:
        """What only a later generation asks for."""

    def check_list(self, told: Mapping[str, Any]) -> None:
        """What only a later generation asks for."""


class G30Peer(RawPeer):
    path = "v3.0/deai"
    knows = frozenset({1, 2, 4})
    signal_type = 2
    patience_s = 15.0


class G22Peer(G30Peer):
    path = "v2.2/deai"


class GDVPeer(RawPeer):
    path = "decentralized"
    knows = frozenset({1, 4, 5, 8, 9})
    signal_type = 5
    patience_s = NEVER_S
    aggregation_round = -1

    async def begin_round(self) -> None:
        await self.channel.say(type=2)

    def check_welcome(self, welcome: Mapping[str, Any]) -> None:
        if welcome["waitForMoreParticipants"] not in (True, False):
            raise RuleBroken("waitForMoreParticipants is no boolean")

    def check_list(self, told: Mapping[str, Any]) -> None:
        if told["aggregationRound"] <= self.aggregation_round:
            raise RuleBroken("a round that is not newer")
        self.aggregation_round = told["aggregationRound"]
