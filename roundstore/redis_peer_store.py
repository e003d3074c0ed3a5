"""Decentralized rounds in Redis, shared by all replicas: keys, scripts, encoding. No rules.

A round is one JSON text beside its revision, and is swapped by one script. Signals
go from replica to replica by PUBLISH: they are worth nothing a moment later, and
whoever is between two streams finds them held in a short list.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import cast

import msgspec
from redis.asyncio import Redis

from learning.decentralized import DecentralizedRound
from learning.ids import PeerId, ReplicaId, TaskId
from learning.refusals import StoredDataDamaged
from roundstore import redis_keys
from roundstore.peer_store import HELD_SIGNALS, News, RoundChanged, Signal, SignalArrived, SignalsHeld, WatchBegun
from roundstore.redis_faults import store_faults
from roundstore.script_connections import ScriptConnections
from roundstore.scripts import Script

_DONE = 1
_to_json = msgspec.json.Encoder(order="deterministic").encode
_to_bytes = msgspec.msgpack.Encoder().encode
_round_from_json = msgspec.json.Decoder(DecentralizedRound).decode
_signal_from = msgspec.msgpack.Decoder(Signal).decode
_hint_from = msgspec.msgpack.Decoder(RoundChanged).decode
_parcel_from = msgspec.msgpack.Decoder(tuple[TaskId, PeerId, Signal | None]).decode
"""Task, peer, and a signal for it; no signal: some are held."""


class RedisPeerStore:
    """Keeps decentralized rounds in Redis. The client stays its owner's: closing it is not done here."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._connections = ScriptConnections(redis)
        self._count_peer = Script("count_peer")
        self._swap_peers = Script("swap_peers")
        self._hold_signal = Script("hold_signal")

    async def fresh_peer_id(self, *, above: int) -> PeerId:
        reply = await self._count_peer(self._connections, keys=[redis_keys.PEER_IDS], arguments=[above])
        return PeerId(str(reply[1]))

    async def read_round(self, task_id: TaskId) -> DecentralizedRound:
        key = redis_keys.peers(task_id)
        with store_faults():
            body = await self._redis.hget(key, "body")
        if body is None:
            return DecentralizedRound()
        try:
            return _round_from_json(body)
        except msgspec.DecodeError as broken:
            raise StoredDataDamaged(name=key) from broken

    async def swap_round(self, task_id: TaskId, before: DecentralizedRound, after: DecentralizedRound) -> bool:
        reply = await self._swap_peers(
            self._connections,
            keys=[redis_keys.peers(task_id)],
            arguments=[
                redis_keys.PEERS_CHANNEL,
                _to_bytes(RoundChanged(task_id, after.revision)),
                before.revision,
                after.revision,
                _to_json(after),
                redis_keys.PEERS_TTL_S,
            ],
        )
        return bool(reply[0] == _DONE)

    async def send_signal(self, replica_id: ReplicaId, task_id: TaskId, signal: Signal) -> bool:
        return await self._publish(replica_id, (task_id, signal.to, signal))

    async def hold_signal(self, task_id: TaskId, signal: Signal) -> bool:
        reply = await self._hold_signal(
            self._connections,
            keys=[redis_keys.held_signals(task_id, signal.to)],
            arguments=[_to_bytes(signal), HELD_SIGNALS, redis_keys.HELD_SIGNALS_TTL_S],
        )
        return bool(reply[0] == _DONE)

    async def take_signals(self, task_id: TaskId, peer_id: PeerId) -> list[Signal]:
        with store_faults():
            held = await self._redis.lpop(redis_keys.held_signals(task_id, peer_id), HELD_SIGNALS)
        # With a count, LPOP answers with a list of what it was given; the stubs promise less.
        return [_signal_from(signal) for signal in cast("list[bytes] | None", held) or ()]

    async def announce_held(self, replica_id: ReplicaId, task_id: TaskId, peer_id: PeerId) -> None:
        await self._publish(replica_id, (task_id, peer_id, None))

    async def watch(self, replica_id: ReplicaId) -> AsyncGenerator[News, None]:
        signals = redis_keys.signals_channel(replica_id)
        with store_faults():
            async with self._redis.pubsub() as pubsub:
                await pubsub.subscribe(redis_keys.PEERS_CHANNEL, signals)
                async for message in pubsub.listen():
                    # The client subscribes again on a connection that it replaced by itself; news were lost then.
                    # It says so once for each channel, and all of them are there when it comes to the last.
                    if message["type"] == "subscribe" and message["channel"] == signals.encode():
                        yield WatchBegun()
                    elif message["type"] == "message":
                        yield _news(message["data"], is_hint=message["channel"] != signals.encode())

    async def _publish(self, replica_id: ReplicaId, parcel: tuple[TaskId, PeerId, Signal | None]) -> bool:
        with store_faults():
            listeners = await self._redis.publish(redis_keys.signals_channel(replica_id), _to_bytes(parcel))
        return int(listeners) > 0


def _news(data: bytes, *, is_hint: bool) -> News:
    if is_hint:
        return _hint_from(data)
    task_id, peer_id, signal = _parcel_from(data)
    return SignalsHeld(task_id, peer_id) if signal is None else SignalArrived(task_id, signal)
