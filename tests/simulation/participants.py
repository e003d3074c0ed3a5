"""Participants, and the gateway between them and the replicas.

A participant trains on the newest round, sends what it has "learned", and repeats the
very same until it is acknowledged or refused, at this replica or at another one. Now and then
it is late, sends other weights as well, sends rubbish, gives up, or goes away for good; and what
others are sending goes along in one call.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from disco.aggregator.v1 import aggregator_service_pb2 as messages
from disco.aggregator.v1 import round_pb2

from learning.refusals import DiscoError, Refusal, ShuttingDown, StoreUnavailable
from learning.refusals import Fault as BrokenWorld
from rpc.status import from_rich_status
from services.aggregator.servicer import AggregatorServicer
from tests.simulation.processes import Slot
from tests.simulation.small_task import BASE, TASK_ID
from tests.simulation.world import Fault, World

RETRY_S = (0.05, 1.5)

Method = Callable[[AggregatorServicer, "Sequence[Sent]"], Awaitable[Any]]
"""Is told whose contributions are to go into the call, where it is one of contributions."""
Outcomes = Sequence[tuple["Sent", round_pb2.Receipt | DiscoError]]


@dataclass(eq=False)
class Sent:
    """Weights that a participant sent, and everything it was ever told about them."""

    participant: str
    base_round: int
    sample_count: int
    weights: bytes
    is_rubbish: bool = False
    receipts: list[round_pb2.Receipt] = field(default_factory=list)
    told_at: list[float] = field(default_factory=list)
    """When each receipt came."""
    refused: str = ""
    """By a refusal that came when no other call was under way; what is refused is never counted."""
    calls: list[asyncio.Task[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.digest = hashlib.sha256(self.weights).hexdigest()

    def is_told(self, receipt: round_pb2.Receipt, at: float) -> None:
        self.receipts.append(receipt)
        self.told_at.append(at)

    def __str__(self) -> str:
        return f"{self.digest[:6]} of {self.participant} for round {self.base_round}"


class Gateway:
    """Passes calls on to replicas, as far as they get there."""

    def __init__(self, world: World, slots: Sequence[Slot]) -> None:
        self._world = world
        self._slots = slots
        self.under_way: list[Sent] = []
        """What participants are sending, and were neither acknowledged nor refused yet."""

    async def submit(self, sents: Sequence[Sent], method: Method) -> None:
        """One attempt at the first contribution, in a call with others that are under way still.

        Raises its refusal; StoreUnavailable as `call`.
        """
        own = sents[0]
        outcomes = await self.call(own.participant, f"submit {', '.join(map(str, sents))}", method, sents=sents)
        self._tell(outcomes)
        for sent, outcome in outcomes:
            if sent is own and isinstance(outcome, DiscoError):
                raise outcome

    def _tell(self, outcomes: Outcomes) -> None:
        for sent, outcome in outcomes:
            if isinstance(outcome, round_pb2.Receipt):
                sent.is_told(outcome, self._world.loop.time())

    async def call(self, who: str, what: str, method: Method, *, sents: Sequence[Sent] = ()) -> Any:
        """One attempt at some replica. Raises StoreUnavailable where nobody answers."""
        world = self._world
        fault = world.fault()
        slot = world.chance.choice(self._slots)
        await world.pause()
        if fault is Fault.DELAY:
            await asyncio.sleep(world.some_seconds())
        if slot.process is None or slot.servicer is None or fault is Fault.LOSE_REQUEST:
            await world.pause()
            raise StoreUnavailable
        process = slot.process
        world.say(who, f"{what} at {process.name}", fault.value if fault else "")
        if fault is Fault.KILL:
            process.kill_soon(world.chance.randrange(40))
        # What was refused meanwhile must not be sent by others: it is known from then on not to be counted.
        still = [*sents[:1], *(sent for sent in sents[1:] if sent in self.under_way)]
        call = process.spawn(_run(method, slot.servicer, still))
        for sent in still:
            sent.calls.append(call)
        if fault is Fault.TWICE:
            world.in_background(self._again(who, what, method, sents))
        answered = asyncio.Event()
        call.add_done_callback(self._look_for_bugs)
        call.add_done_callback(lambda _: answered.set())
        process.when_dead(answered.set)
        gives_up = fault in (Fault.LATE, Fault.OUTAGE)
        try:
            async with asyncio.timeout(world.some_seconds() if gives_up else None):
                await answered.wait()
        except TimeoutError:
            if fault is Fault.LATE:
                call.cancel()  # the other end of the connection is told
            raise StoreUnavailable from None
        if not process.alive or fault is Fault.LOSE_REPLY:
            raise StoreUnavailable
        await world.pause()
        return call.result()

    def _look_for_bugs(self, call: asyncio.Task[Any]) -> None:
        """Of a call that ended, whether somebody still waits for it or not."""
        error = None if call.cancelled() else call.exception()
        if error is not None and not isinstance(error, Refusal | StoreUnavailable | ShuttingDown):
            self._world.violated("a call ended with " + "".join(traceback.format_exception(error)))

    async def _again(self, who: str, what: str, method: Method, sents: Sequence[Sent]) -> None:
        try:
            outcomes = await self.call(who, f"again: {what}", method, sents=sents)
        except DiscoError:
            return
        if sents:
            self._tell(outcomes)


async def _run(method: Method, servicer: AggregatorServicer, sents: Sequence[Sent]) -> Any:
    return await method(servicer, sents)


class Participant:
    """One client. `rounds` times it contributes; then it stays, leaves, or is simply gone."""

    def __init__(self, world: World, gateway: Gateway, name: str, *, rounds: int, lease_s: float) -> None:
        self.name = name
        self.sent: list[Sent] = []
        self._world = world
        self._chance = world.chance
        self._gateway = gateway
        self._rounds = rounds
        self._lease_s = lease_s
        self._seen = 0

    async def run(self) -> None:
        await asyncio.sleep(self._world.some_seconds())
        await self._repeat(
            "join", lambda to: to.JoinTask(messages.JoinTaskRequest(task_id=TASK_ID, participant_id=self.name), None)
        )
        renewing = self._world.in_background(self._renew())
        for _ in range(self._rounds):
            await self._take_part()
            if self._happens(0.08):  # gone without a word, and back perhaps
                renewing.cancel()
                if self._happens(0.5):
                    return
                await asyncio.sleep(self._world.some_seconds())
                renewing = self._world.in_background(self._renew())
        if self._happens(0.5):
            renewing.cancel()
            if self._happens(0.7):
                await self._repeat(
                    "leave",
                    lambda to: to.LeaveTask(messages.LeaveTaskRequest(task_id=TASK_ID, participant_id=self.name), None),
                )

    async def _take_part(self) -> None:
        self._seen = await self._current_round()
        await asyncio.sleep(self._world.some_seconds())
        base = self._seen
        if self._happens(0.15):
            base = max(0, base + self._chance.choice((-2, -1, -1, 1)))
        sent = self._learn(base)
        doubled = self._world.in_background(self.submit(sent)) if self._happens(0.15) else None
        await self.submit(sent)
        if doubled is not None:
            await doubled
        if self._happens(0.2):
            await self.submit(sent)
        if self._happens(0.1):
            await self.submit(self._learn(base))
        await self._wait_for_a_round_after(self._seen)

    def _learn(self, base_round: int) -> Sent:
        """Weights that nobody sent before; sometimes ones that cannot be counted."""
        scale = self._chance.choice((1e-4, 0.1, 0.1, 50.0))
        values = [weight + scale * self._chance.gauss(0, 1) for weight in BASE]
        is_rubbish = self._happens(0.04)
        if is_rubbish:
            values[self._chance.randrange(len(values))] = self._chance.choice((float("nan"), float("inf"), -1e30))
        sent = Sent(
            participant=self.name,
            base_round=base_round,
            sample_count=self._chance.choice((0, 1, 1, 2, 7)),
            weights=struct.pack(f"<{len(values)}f", *values),
            is_rubbish=is_rubbish,
        )
        self.sent.append(sent)
        return sent

    async def submit(self, sent: Sent) -> None:
        """Repeats until it is acknowledged or refused; seldom not even then."""
        self._gateway.under_way.append(sent)
        try:
            await self._submit(sent)
        finally:
            self._gateway.under_way.remove(sent)

    async def _submit(self, sent: Sent) -> None:
        while True:
            sent.refused = ""
            try:
                await self._gateway.submit([sent, *self._others()], self._submission)
            except Refusal as refusal:
                self._world.say(self.name, f"{sent} is refused: {refusal.reason}")
                if all(call.done() for call in sent.calls):
                    sent.refused = refusal.reason
                return
            except BrokenWorld:
                if self._happens(0.04) and not self._world.is_calm:
                    return
                await self._sleep_a_little()
            else:
                receipt = sent.receipts[-1]
                self._world.say(
                    self.name, f"{sent} is acknowledged: round {receipt.round}, position {receipt.position}"
                )
                return

    def _others(self) -> list[Sent]:
        """What goes into the same call: mostly nothing."""
        under_way = self._gateway.under_way
        return self._chance.choices(under_way, k=self._chance.choice((1, 1, 2, 3))) if self._happens(0.5) else []

    async def _submission(self, to: AggregatorServicer, sents: Sequence[Sent]) -> Outcomes:
        """As a stream or in one message, whichever attempt it is."""
        if len(sents) == 1 and self._happens(0.7):
            answer = await to.SubmitContribution(self._stream(sents[0]), None)
            return [(sents[0], answer.receipt)]
        request = messages.HandOverContributionsRequest(
            task_id=TASK_ID,
            contributions=[
                messages.HandOverContributionsRequest.Contribution(
                    participant_id=sent.participant,
                    round=sent.base_round,
                    sample_count=sent.sample_count,
                    octets=sent.weights,
                )
                for sent in sents
            ],
        )
        outcomes = (await to.HandOverContributions(request, None)).outcomes
        return [(sent, self._said(outcome)) for sent, outcome in zip(sents, outcomes, strict=True)]

    def _said(self, outcome: messages.HandOverContributionsResponse.Outcome) -> round_pb2.Receipt | DiscoError:
        if outcome.WhichOneof("outcome") == "receipt":
            return outcome.receipt
        error = from_rich_status(outcome.refusal)
        if not isinstance(error, Refusal | StoreUnavailable | ShuttingDown):
            self._world.violated(f"a contribution's outcome is {error!r}")
        return error

    async def _stream(self, sent: Sent) -> AsyncIterator[messages.SubmitContributionRequest]:
        yield messages.SubmitContributionRequest(
            header=messages.SubmitContributionRequest.Header(
                task_id=TASK_ID,
                participant_id=sent.participant,
                round=sent.base_round,
                sha256=bytes.fromhex(sent.digest),
                sample_count=sent.sample_count,
            )
        )
        await self._world.pause()
        middle = 8
        yield messages.SubmitContributionRequest(weights_chunk=sent.weights[:middle])
        await self._world.pause()
        yield messages.SubmitContributionRequest(weights_chunk=sent.weights[middle:])

    async def _current_round(self) -> int:
        answer = await self._repeat(
            "get round", lambda to: to.GetRound(messages.GetRoundRequest(task_id=TASK_ID), None)
        )
        return int(answer.round.number)

    async def _wait_for_a_round_after(self, number: int) -> None:
        patience = self._world.loop.time() + self._chance.uniform(1, 15)
        while self._world.loop.time() < patience and await self._current_round() <= number:
            await self._sleep_a_little()

    async def _renew(self) -> None:
        while True:
            await self._repeat(
                "renew",
                lambda to: to.RenewLeases(
                    messages.RenewLeasesRequest(task_id=TASK_ID, participant_ids=[self.name]), None
                ),
            )
            await asyncio.sleep(self._lease_s / 3)

    async def _repeat(self, what: str, method: Callable[[AggregatorServicer], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await self._gateway.call(self.name, what, lambda to, _: method(to))
            except BrokenWorld:
                await self._sleep_a_little()

    async def _sleep_a_little(self) -> None:
        await asyncio.sleep(self._chance.uniform(*RETRY_S))

    def _happens(self, probability: float) -> bool:
        return self._chance.random() < probability
