"""What a schedule is made of, before anything happens: drawn from the seed.

Every kind of fault is in some schedules and missing in others, seldom in one and
frequent in the next: a mixture of all of them would hide what few of them need each other for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from learning.aggregation import Aggregation, AggregationRule
from learning.policy import Policy
from tests.simulation.world import Fault, Weather

_OPTIMIZERS = (
    AggregationRule.FEDAVGM,
    AggregationRule.FEDADAM,
    AggregationRule.FEDYOGI,
    AggregationRule.FEDADAGRAD,
)
_ROBUST = (AggregationRule.MEDIAN, AggregationRule.TRIMMED_MEAN, AggregationRule.CENTERED_CLIPPING)


@dataclass(frozen=True)
class Plan:
    policy: Policy
    aggregation: Aggregation | None
    replicas: int
    participants: int
    rounds: int
    lease_s: float
    closing_lease_s: float
    skews_s: tuple[float, ...]
    """By how much the clock of each replica is wrong."""
    in_threads: bool
    """Whether computations go to threads, which with models as small as these they would not."""
    changes_policy: bool
    power_cuts: int
    weather: Weather


def a_plan(chance: random.Random) -> Plan:
    participants = chance.randint(2, 6)
    replicas = chance.randint(1, 3)
    return Plan(
        policy=a_policy(chance, participants, staleness_weights=chance.choice(((1,), (2, 1), (4, 2, 1), (3, 3)))),
        aggregation=_an_aggregation(chance),
        replicas=replicas,
        participants=participants,
        rounds=chance.randint(1, 4),
        lease_s=chance.choice((2.0, 5.0, 20.0)),
        closing_lease_s=chance.choice((0.05, 0.5, 10.0)),
        skews_s=tuple(chance.choice((0.0, chance.uniform(-2, 2))) for _ in range(replicas)),
        in_threads=chance.random() < 0.3,
        changes_policy=chance.random() < 0.2,
        power_cuts=chance.choice((0, 0, 0, 1, 3)),
        weather=_a_weather(chance),
    )


def a_policy(chance: random.Random, participants: int, *, staleness_weights: tuple[int, ...]) -> Policy:
    least = chance.randint(1, max(1, participants - 1))
    share = chance.choice((1.0, 1.0, 0.5, 0.34, None))
    count = chance.randint(1, participants + 1) if share is None else None
    tight = staleness_weights[0] * (max(least, count or 0) + chance.randint(0, 3))
    return Policy(
        min_participants=least,
        quorum_share=share,
        quorum_count=count,
        deadline_s=chance.choice((0.5, 3.0, 10.0)),
        staleness_weights=staleness_weights,
        max_total_weight=chance.choice((2**20, 2**20, tight)),
    )


def _an_aggregation(chance: random.Random) -> Aggregation | None:
    """In a third of the schedules each: the mean, a server optimizer, a rule that keeps every contribution."""
    rules = chance.choice((None, _OPTIMIZERS, _ROBUST))
    return Aggregation(chance.choice(rules)) if rules else None


def _a_weather(chance: random.Random) -> Weather:
    weather = {fault: chance.choice((0.003, 0.01, 0.03, 0.1)) for fault in Fault if chance.random() < 0.6}
    if Fault.KILL in weather:
        weather[Fault.KILL] /= 4
    if Fault.OUTAGE in weather:
        weather[Fault.OUTAGE] /= 4
    if chance.random() < 0.5:
        weather.pop(Fault.MANGLE, None)
    return weather
