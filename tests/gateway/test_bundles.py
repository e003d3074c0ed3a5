"""Contributions that are ready together go in one call; each has an outcome of its own."""

from __future__ import annotations

import asyncio

import pytest
from disco.aggregator.v1.aggregator_service_pb2 import HandOverContributionsRequest
from disco.aggregator.v1.handover_pb2 import HandedOver
from disco.aggregator.v1.round_pb2 import Receipt

from gateway import bundles as bundles_module
from gateway.bundles import MAX_TOGETHER, QUIET_TURNS, Bundles
from gateway.service_clients import ServiceClients
from gateway.submitting import Submitting
from learning.refusals import Fault, NotHandedOver, RoundStale, StoreUnavailable, WeightsNotFinite
from tests.gateway.recorders import Services

WHO = [f"p{number}" for number in range(5)]


@pytest.fixture
def bundles(clients: ServiceClients) -> Bundles:
    return Bundles(clients.aggregator(), seconds=5)


def weights_of(participant: str) -> bytes:
    return participant.encode() * 8


def handing_over(bundles: Bundles, participant: str, task_id: str = "fed") -> asyncio.Task[Receipt]:
    contribution = HandOverContributionsRequest.Contribution(participant_id=participant, round=3, sample_count=2)
    return asyncio.create_task(bundles.hand_over(task_id, contribution, weights_of(participant)))


async def outcomes_of(calls: list[asyncio.Task[Receipt]]) -> list[Receipt | BaseException]:
    async with asyncio.timeout(10):
        return await asyncio.gather(*calls, return_exceptions=True)


def arrived(services: Services) -> list[tuple[str, bytes, int, int]]:
    return [
        (header.participant_id, weights, header.round, header.sample_count)
        for header, weights in services.aggregator.contributions
    ]


async def test_contributions_that_are_ready_together_go_in_one_call(bundles: Bundles, services: Services) -> None:
    outcomes = await outcomes_of([handing_over(bundles, who) for who in WHO])
    assert outcomes == [Receipt(task_id="fed", round=3, participant_id=who) for who in WHO]
    assert arrived(services) == [(who, weights_of(who), 3, 2) for who in WHO]
    assert services.aggregator.bundles == [("fed", len(WHO))]


async def test_frame_that_is_decoded_a_turn_later_goes_along_and_a_later_one_in_another_call(
    bundles: Bundles, services: Services
) -> None:
    calls = [handing_over(bundles, "p0")]
    for _ in range(QUIET_TURNS):
        await asyncio.sleep(0)
    calls.append(handing_over(bundles, "p1"))
    await outcomes_of(calls)
    assert services.aggregator.bundles == [("fed", 2)]
    await outcomes_of([handing_over(bundles, "p2")])
    assert services.aggregator.bundles == [("fed", 2), ("fed", 1)]


async def test_stream_of_contributions_goes_out_when_a_call_is_full(
    bundles: Bundles, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles_module, "MAX_TOGETHER", 3)
    calls = []
    for number in range(10):  # one in each turn: it is never quiet
        calls.append(handing_over(bundles, f"p{number}"))
        await asyncio.sleep(0)
    await outcomes_of(calls)
    assert sum(count for _, count in services.aggregator.bundles) == 10
    assert max(count for _, count in services.aggregator.bundles) == 3
    assert sorted(who for who, *_ in arrived(services)) == [f"p{number}" for number in range(10)]


async def test_contributions_to_two_tasks_go_in_two_calls(bundles: Bundles, services: Services) -> None:
    await outcomes_of([handing_over(bundles, "p0"), handing_over(bundles, "p1", "other"), handing_over(bundles, "p2")])
    assert sorted(services.aggregator.bundles) == [("fed", 2), ("other", 1)]


async def test_more_than_fit_go_in_several_calls(
    bundles: Bundles, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [f"p{number}" for number in range(MAX_TOGETHER + 1)]
    await outcomes_of([handing_over(bundles, who) for who in many])
    assert sorted(services.aggregator.bundles) == [("fed", 1), ("fed", MAX_TOGETHER)]
    services.aggregator.bundles.clear()
    monkeypatch.setattr(bundles_module, "MAX_BYTES", 2 * len(weights_of("p0")) + 1)
    await outcomes_of([handing_over(bundles, who) for who in WHO])
    assert sorted(services.aggregator.bundles) == [("fed", 1), ("fed", 2), ("fed", 2)]
    monkeypatch.setattr(bundles_module, "MAX_BYTES", 1)
    await outcomes_of([handing_over(bundles, who) for who in WHO[:2]])
    assert services.aggregator.bundles[3:] == [("fed", 1), ("fed", 1)]
    assert sorted(who for who, *_ in arrived(services)) == sorted([*many, *WHO, *WHO[:2]])


async def test_large_weights_do_not_wait_for_each_others_outcomes(bundles: Bundles, services: Services) -> None:
    large = HandedOver(name="nowhere", size=bundles_module.MAX_BYTES)
    calls = [
        asyncio.create_task(
            bundles.hand_over("fed", HandOverContributionsRequest.Contribution(participant_id=who, handed_over=large))
        )
        for who in WHO[:2]
    ]
    assert [type(each) for each in await outcomes_of(calls)] == [NotHandedOver, NotHandedOver]
    assert services.aggregator.bundles == [("fed", 1), ("fed", 1)]


async def test_refused_contribution_costs_the_others_nothing(bundles: Bundles, services: Services) -> None:
    services.aggregator.refused = {
        "p1": [RoundStale(round=3, current_round=5)],
        "p3": [WeightsNotFinite(tensor="dense/bias")],
    }
    first, stale, second, broken, third = await outcomes_of([handing_over(bundles, who) for who in WHO])
    assert [each.participant_id for each in (first, second, third) if isinstance(each, Receipt)] == ["p0", "p2", "p4"]
    assert isinstance(stale, RoundStale)
    assert stale.variables == {"round": "3", "current_round": "5"}
    assert isinstance(broken, WeightsNotFinite)


async def test_who_stops_waiting_costs_the_others_nothing(bundles: Bundles, services: Services) -> None:
    services.aggregator.may_answer.clear()
    calls = [handing_over(bundles, who) for who in WHO]
    await services.aggregator.submitting.wait()
    calls[1].cancel()
    services.aggregator.may_answer.set()
    outcomes = await outcomes_of(calls)
    assert isinstance(outcomes[1], asyncio.CancelledError)
    assert [each.participant_id for each in outcomes if isinstance(each, Receipt)] == ["p0", "p2", "p3", "p4"]


async def test_call_that_fails_fails_for_all_that_are_in_it(bundles: Bundles, services: Services) -> None:
    await services.stop()
    outcomes = await outcomes_of([handing_over(bundles, who) for who in WHO[:2]])
    assert [type(each) for each in outcomes] == [StoreUnavailable, StoreUnavailable]
    await services.start()


async def test_answer_with_too_few_outcomes_is_a_fault_for_all(bundles: Bundles, services: Services) -> None:
    services.aggregator.outcomes_at_most = 1
    outcomes = await outcomes_of([handing_over(bundles, who) for who in WHO[:2]])
    assert all(isinstance(each, Fault) for each in outcomes)
    assert [str(each) for each in outcomes] == 2 * ["A service answered OK: 1 outcomes of 2 contributions"]


async def test_each_is_handed_over_again_until_it_has_its_receipt(clients: ServiceClients, services: Services) -> None:
    submitting = Submitting(clients.aggregator(), None, clock=lambda: 0.0)
    services.aggregator.refused = {"p0": [StoreUnavailable(), StoreUnavailable()]}
    receipts = await asyncio.gather(
        *(submitting.submit("fed", who, round=3, weights=weights_of(who)) for who in WHO[:2])
    )
    assert [receipt.participant_id for receipt in receipts] == ["p0", "p1"]
    assert services.aggregator.bundles == [("fed", 2), ("fed", 1), ("fed", 1)]
    assert [(who, weights) for who, weights, *_ in arrived(services)] == [
        ("p1", weights_of("p1")),
        ("p0", weights_of("p0")),
    ]
