"""What every store of federated rounds promises: written once, run for the one in memory and the one in Redis.

A store is given by the fixture `store`. Its epochs are the last of the fixture `fresh_epochs`: "first", unless a test
adds one.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from dataclasses import replace

import pytest

from learning.federated import Admission, Contribution, GroupConflict, NotDue, Restoring, RoundMoved, RoundStatus, State
from learning.ids import ParticipantId, ReplicaId, TaskId
from learning.policy import Policy
from learning.refusals import DuplicateContribution, MalformedMessage, WeightCapReached
from roundstore.store import NORMS_KEPT, REFUSALS_KEPT, Hint, NotedRefusal, RoundStore, SumPointer

TASK = TaskId("titanic")
OTHER_TASK = TaskId("cifar10")
EPOCH = "first"
ALICE, BOB, CAROL = ParticipantId("alice"), ParticipantId("bob"), ParticipantId("carol")
REPLICA, OTHER_REPLICA = ReplicaId("replica-1"), ReplicaId("replica-2")
POLICY = Policy(
    min_participants=2, quorum_share=0.75, deadline_s=12.5, staleness_weights=(4, 2, 1), max_total_weight=20
)
RESTORING = Restoring(version=3, request_id="r1", asked_at=1763686800.1234567)
ODD_TIME = 1763686800.1234567
"""Rounds to something else where a time is written with fewer than 17 digits."""


def a_status(number: int = 7) -> RoundStatus:
    """The status of a round that was just opened."""
    return RoundStatus(
        task_id=TASK,
        epoch=EPOCH,
        number=number,
        state=State.COLLECTING,
        policy=POLICY,
        revision=0,
        participants=0,
        contributions=0,
        absent_contributors=0,
        total_weight=0,
        weight_cap=20,
        first_contribution_at=None,
        closer=None,
        closer_until=None,
        last_contributions=0,
        contributions_ever=0,
    )


def a_pointer(contributions: int = 1, total_weight: int = 4, replica_id: ReplicaId = REPLICA) -> SumPointer:
    return SumPointer(replica_id, f"sums/titanic/000000000007/{replica_id}.0", "5d" * 32, contributions, total_weight)


def a_contribution(who: ParticipantId, digest: str = "a1", weight: int = 4) -> Contribution:
    return Contribution(who, digest, base_round=7, weight=weight)


def an_admission(who: ParticipantId, position: int = 0, digest: str = "a1", weight: int = 4) -> Admission:
    return Admission(who, digest, base_round=7, weight=weight, round=7, position=position)


def a_refusal(number: int) -> NotedRefusal:
    return NotedRefusal(ALICE, number, "WEIGHTS_NOT_FINITE", "Zu groß: ∞", "5d" * 32, ODD_TIME + number)


async def opened(store: RoundStore) -> RoundStatus:
    return await store.open_round(TASK, POLICY, number=7, now=1.0)


async def contributed(store: RoundStore, *who: ParticipantId, now: float = 2.0) -> RoundStatus:
    """An open round, and all of these have contributed in one group of the first replica."""
    await opened(store)
    pointer = a_pointer(len(who), 4 * len(who))
    group = [a_contribution(participant) for participant in who]
    return (await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=pointer, group=group, now=now))[1]


async def closing(store: RoundStore, until: float = 30.0) -> RoundStatus:
    """A round with two contributions that the first replica closes."""
    await contributed(store, ALICE, BOB)
    read = await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=until, now=20.0)
    return read.status


class RoundStoreContract:
    # Opening

    async def test_an_opened_round_is_empty_and_collecting(self, store: RoundStore) -> None:
        assert await opened(store) == a_status()
        assert await store.read_status(TASK) == a_status()

    async def test_opening_again_changes_nothing(self, store: RoundStore) -> None:
        status = await contributed(store, ALICE)
        assert await store.open_round(TASK, Policy(), number=9, now=5.0) == status

    async def test_a_task_without_round_has_no_status(self, store: RoundStore) -> None:
        assert await store.read_status(TASK) is None

    async def test_every_policy_is_read_as_it_was_written(self, store: RoundStore) -> None:
        counted = Policy(quorum_share=None, quorum_count=3, deadline_s=0.1 + 0.2, staleness_weights=(5,))
        assert (await store.open_round(TASK, counted, number=0, now=1.0)).policy == counted
        assert (await store.open_round(OTHER_TASK, Policy(quorum_share=1 / 3), number=0, now=1.0)).policy == Policy(
            quorum_share=1 / 3
        )

    async def test_open_tasks_are_listed_in_order(self, store: RoundStore) -> None:
        assert await store.list_open_tasks() == []
        await opened(store)
        await store.open_round(OTHER_TASK, POLICY, number=0, now=1.0)
        assert await store.list_open_tasks() == [OTHER_TASK, TASK]

    async def test_without_a_round_every_change_is_refused(self, store: RoundStore) -> None:
        with pytest.raises(RoundMoved):
            await store.join(TASK, [ALICE], lease_until=10.0, now=1.0)
        with pytest.raises(RoundMoved):
            await store.leave(TASK, ALICE, now=1.0)
        with pytest.raises(RoundMoved):
            await store.expire_leases(TASK, now=1.0)
        with pytest.raises(RoundMoved):
            await store.set_policy(TASK, POLICY, now=1.0)
        with pytest.raises(RoundMoved):
            await store.commit_group(
                TASK, epoch=EPOCH, number=7, pointer=a_pointer(), group=[a_contribution(ALICE)], now=1.0
            )
        with pytest.raises(NotDue):
            await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=9.0, now=1.0)
        with pytest.raises(RoundMoved):
            await store.read_closing(TASK, epoch=EPOCH, number=7)
        with pytest.raises(RoundMoved):
            await store.finish_closing(TASK, epoch=EPOCH, number=7)
        assert await store.find_admission(TASK, ALICE, rounds=[7]) == []
        assert await store.read_status(TASK) is None

    # Dropping

    async def test_a_dropped_round_is_gone_with_all_that_was_in_it(
        self, store: RoundStore, fresh_epochs: list[str]
    ) -> None:
        # What should happen: nothing of the old round is found; one that is opened later is empty and has a new epoch.
        await contributed(store, ALICE, BOB)
        await store.open_round(OTHER_TASK, POLICY, number=0, now=1.0)
        await store.drop_round(TASK)
        assert await store.read_status(TASK) is None
        assert await store.list_open_tasks() == [OTHER_TASK]
        with pytest.raises(RoundMoved):
            await store.join(TASK, [ALICE], lease_until=10.0, now=1.0)
        with pytest.raises(RoundMoved):
            await store.commit_group(
                TASK, epoch=EPOCH, number=7, pointer=a_pointer(), group=[a_contribution(CAROL)], now=1.0
            )
        fresh_epochs.append("second")
        assert await store.open_round(TASK, POLICY, number=7, now=3.0) == replace(a_status(), epoch="second")
        started = await store.start_closing(TASK, epoch="second", number=7, closer=REPLICA, until=9.0, now=3.0)
        assert started.status.state is State.AGGREGATING
        assert (await store.read_closing(TASK, epoch="second", number=7)).admissions == ()

    async def test_dropping_a_round_that_is_not_there_changes_nothing(self, store: RoundStore) -> None:
        await store.drop_round(TASK)
        await store.drop_round(TASK)
        assert await store.read_status(TASK) is None

    async def test_a_watcher_is_told_of_a_dropped_round(self, store: RoundStore) -> None:
        await opened(store)
        async with aclosing(store.watch()) as hints:
            assert await anext(hints) == Hint(TASK, None)
            await store.drop_round(TASK)
            async with asyncio.timeout(10):
                assert await anext(hints) == Hint(TASK, None)

    # Presence

    async def test_participants_join_together(self, store: RoundStore) -> None:
        await opened(store)
        status = await store.join(TASK, [ALICE, BOB], lease_until=10.0, now=1.0)
        assert status == replace(a_status(), participants=2, revision=1)

    async def test_joining_with_nobody_changes_nothing(self, store: RoundStore) -> None:
        await opened(store)
        assert await store.join(TASK, [], lease_until=10.0, now=1.0) == a_status()

    async def test_a_renewed_lease_lasts_longer(self, store: RoundStore) -> None:
        await opened(store)
        await store.join(TASK, [ALICE, BOB], lease_until=10.0, now=1.0)
        renewed = await store.join(TASK, [ALICE], lease_until=20.0, now=5.0)
        assert (renewed.participants, renewed.revision) == (2, 2)
        assert (await store.expire_leases(TASK, now=10.0)).participants == 1
        assert (await store.expire_leases(TASK, now=20.0)).participants == 0

    async def test_the_same_lease_again_is_no_change(self, store: RoundStore) -> None:
        await opened(store)
        status = await store.join(TASK, [ALICE], lease_until=10.0, now=1.0)
        assert await store.join(TASK, [ALICE], lease_until=10.0, now=1.0) == status

    async def test_a_lease_ends_exactly_at_its_instant(self, store: RoundStore) -> None:
        await opened(store)
        await store.join(TASK, [ALICE], lease_until=ODD_TIME, now=1.0)
        assert (await store.expire_leases(TASK, now=1763686800.1234565)).participants == 1
        assert (await store.expire_leases(TASK, now=ODD_TIME)).participants == 0

    async def test_leaving_twice_is_no_error(self, store: RoundStore) -> None:
        await opened(store)
        await store.join(TASK, [ALICE], lease_until=10.0, now=1.0)
        status = await store.leave(TASK, ALICE, now=2.0)
        assert status == replace(a_status(), revision=2)
        assert await store.leave(TASK, ALICE, now=3.0) == status

    async def test_the_end_of_an_older_connection_leaves_the_seat_to_the_newer_one(self, store: RoundStore) -> None:
        await opened(store)
        await store.join(TASK, [ALICE], lease_until=10.0, now=1.0, connection="older")
        seated = await store.join(TASK, [ALICE], lease_until=10.0, now=1.0, connection="newer")
        assert (seated.participants, seated.revision) == (1, 2)
        assert await store.join(TASK, [ALICE], lease_until=10.0, now=1.0, connection="newer") == seated
        assert await store.leave(TASK, ALICE, now=2.0, connection="older") == seated
        # Renewing tells no connection: the one that joined last stays known.
        renewed = await store.join(TASK, [ALICE], lease_until=20.0, now=2.0)
        assert await store.leave(TASK, ALICE, now=2.0, connection="older") == renewed
        assert (await store.leave(TASK, ALICE, now=2.0, connection="newer")).participants == 0

    async def test_who_tells_no_connection_ends_the_presence_whichever_joined(self, store: RoundStore) -> None:
        await opened(store)
        await store.join(TASK, [ALICE], lease_until=10.0, now=1.0, connection="gateway")
        assert (await store.leave(TASK, ALICE, now=2.0)).participants == 0
        await store.join(TASK, [BOB], lease_until=10.0, now=2.0)
        assert (await store.leave(TASK, BOB, now=3.0, connection="gateway")).participants == 0

    async def test_a_connection_is_forgotten_with_the_presence_and_kept_into_the_next_round(
        self, store: RoundStore
    ) -> None:
        await opened(store)
        await store.join(TASK, [ALICE, BOB], lease_until=10.0, now=1.0, connection="newer")
        await store.leave(TASK, ALICE, now=2.0)
        await store.join(TASK, [ALICE], lease_until=50.0, now=3.0)
        await store.expire_leases(TASK, now=10.0)
        await store.join(TASK, [BOB, CAROL], lease_until=50.0, now=11.0)
        await store.join(TASK, [CAROL], lease_until=50.0, now=11.0, connection="newer")
        await closing(store)
        await store.finish_closing(TASK, epoch=EPOCH, number=7)
        assert (await store.leave(TASK, ALICE, now=30.0, connection="older")).participants == 2
        assert (await store.leave(TASK, BOB, now=30.0, connection="older")).participants == 1
        assert (await store.leave(TASK, CAROL, now=30.0, connection="older")).participants == 1

    async def test_a_contributor_who_leaves_is_absent_until_back(self, store: RoundStore) -> None:
        await opened(store)
        await store.join(TASK, [ALICE, BOB], lease_until=10.0, now=1.0)
        status = await contributed(store, ALICE, BOB)
        assert (status.participants, status.absent_contributors) == (2, 0)
        status = await store.leave(TASK, ALICE, now=3.0)
        assert (status.participants, status.contributions, status.absent_contributors) == (1, 2, 1)
        status = await store.expire_leases(TASK, now=10.0)
        assert (status.participants, status.contributions, status.absent_contributors) == (0, 2, 2)
        status = await store.join(TASK, [BOB], lease_until=20.0, now=11.0)
        assert (status.participants, status.contributions, status.absent_contributors) == (1, 2, 1)

    # Contributions

    async def test_a_group_is_admitted_in_its_order(self, store: RoundStore) -> None:
        await opened(store)
        await store.join(TASK, [BOB], lease_until=10.0, now=1.0)
        group = [a_contribution(BOB, "b1", 4), a_contribution(ALICE, "a1", 3)]
        admissions, status = await store.commit_group(
            TASK, epoch=EPOCH, number=7, pointer=a_pointer(2, 7), group=group, now=ODD_TIME
        )
        assert admissions == [an_admission(BOB, 0, "b1", 4), an_admission(ALICE, 1, "a1", 3)]
        assert status == replace(
            a_status(),
            revision=2,
            participants=1,
            contributions=2,
            absent_contributors=1,
            total_weight=7,
            first_contribution_at=ODD_TIME,
        )
        assert await store.read_status(TASK) == status

    async def test_a_second_group_goes_on_where_the_first_ended(self, store: RoundStore) -> None:
        await contributed(store, ALICE, BOB, now=2.0)
        pointer = a_pointer(1, 4, OTHER_REPLICA)
        admissions, status = await store.commit_group(
            TASK, epoch=EPOCH, number=7, pointer=pointer, group=[a_contribution(CAROL)], now=3.0
        )
        assert admissions == [an_admission(CAROL, 2)]
        assert (status.contributions, status.total_weight, status.first_contribution_at) == (3, 12, 2.0)

    async def test_a_group_is_refused_whole_with_a_reason_for_each(self, store: RoundStore) -> None:
        before = await contributed(store, ALICE, BOB)
        group = [
            a_contribution(CAROL, "c1", weight=5),
            a_contribution(ALICE, "a1"),
            a_contribution(BOB, "b2"),
            a_contribution(ParticipantId("dave"), "d1", weight=8),
            a_contribution(ParticipantId("erin"), "e1", weight=7),
        ]
        with pytest.raises(GroupConflict) as conflict:
            await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=a_pointer(7, 32), group=group, now=3.0)
        assert set(conflict.value.refused) == {1, 2, 3}
        assert conflict.value.refused[1] == an_admission(ALICE, 0)
        assert isinstance(conflict.value.refused[2], DuplicateContribution)
        assert conflict.value.refused[2].variables == {"participant_id": "bob", "round": "7"}
        assert isinstance(conflict.value.refused[3], WeightCapReached)
        assert conflict.value.refused[3].variables == {"cap": "20"}
        assert await store.read_status(TASK) == before
        assert await store.find_admission(TASK, CAROL, rounds=[7]) == []

    async def test_a_refused_group_leaves_the_pointer_where_it_is(self, store: RoundStore) -> None:
        await contributed(store, ALICE, BOB)
        with pytest.raises(GroupConflict):
            await store.commit_group(
                TASK, epoch=EPOCH, number=7, pointer=a_pointer(3, 12), group=[a_contribution(ALICE)], now=3.0
            )
        await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, now=20.0)
        assert (await store.read_closing(TASK, epoch=EPOCH, number=7)).sums == (a_pointer(2, 8),)

    async def test_the_weight_of_a_round_may_reach_its_cap(self, store: RoundStore) -> None:
        await opened(store)
        heavy = a_contribution(ALICE, weight=20)
        _, status = await store.commit_group(
            TASK, epoch=EPOCH, number=7, pointer=a_pointer(1, 20), group=[heavy], now=2.0
        )
        assert status.total_weight == 20
        with pytest.raises(GroupConflict):
            await store.commit_group(
                TASK, epoch=EPOCH, number=7, pointer=a_pointer(2, 21), group=[a_contribution(BOB, weight=1)], now=2.0
            )

    async def test_a_participant_twice_in_one_group_is_refused_the_second_time(self, store: RoundStore) -> None:
        before = await opened(store)
        group = [a_contribution(ALICE, "a1"), a_contribution(ALICE, "a1"), a_contribution(ALICE, "a2")]
        with pytest.raises(GroupConflict) as conflict:
            await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=a_pointer(3, 12), group=group, now=2.0)
        assert set(conflict.value.refused) == {1, 2}
        assert conflict.value.refused[1] == an_admission(ALICE, 0)
        assert isinstance(conflict.value.refused[2], DuplicateContribution)
        assert await store.read_status(TASK) == before

    async def test_a_group_without_members_is_a_bug(self, store: RoundStore) -> None:
        await opened(store)
        with pytest.raises(AssertionError):
            await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=a_pointer(), group=[], now=2.0)

    @pytest.mark.parametrize(("epoch", "number"), [("other", 7), (EPOCH, 6), (EPOCH, 8)])
    async def test_a_group_for_another_round_is_not_admitted(self, store: RoundStore, epoch: str, number: int) -> None:
        before = await opened(store)
        with pytest.raises(RoundMoved):
            await store.commit_group(
                TASK, epoch=epoch, number=number, pointer=a_pointer(), group=[a_contribution(ALICE)], now=2.0
            )
        assert await store.read_status(TASK) == before

    async def test_a_group_is_not_admitted_while_the_round_closes(self, store: RoundStore) -> None:
        before = await closing(store)
        with pytest.raises(RoundMoved):
            await store.commit_group(
                TASK, epoch=EPOCH, number=7, pointer=a_pointer(3, 12), group=[a_contribution(CAROL)], now=2.0
            )
        assert await store.read_status(TASK) == before

    async def test_of_many_groups_at_once_every_member_gets_a_position_of_its_own(self, store: RoundStore) -> None:
        await store.open_round(TASK, Policy(), number=7, now=1.0)
        replicas = [ReplicaId(f"replica-{index}") for index in range(20)]
        answers = await asyncio.gather(
            *(
                store.commit_group(
                    TASK,
                    epoch=EPOCH,
                    number=7,
                    pointer=a_pointer(2, 8, replica_id),
                    group=[a_contribution(ParticipantId(f"{replica_id}-{member}")) for member in range(2)],
                    now=2.0,
                )
                for replica_id in replicas
            )
        )
        positions = [admission.position for admissions, _ in answers for admission in admissions]
        assert sorted(positions) == list(range(40))

    # Finding admissions

    async def test_admissions_are_found_in_the_order_of_the_rounds_asked(self, store: RoundStore) -> None:
        await closing(store)
        await store.finish_closing(TASK, epoch=EPOCH, number=7)
        late = Contribution(ALICE, "a2", base_round=7, weight=2)
        await store.commit_group(TASK, epoch=EPOCH, number=8, pointer=a_pointer(1, 2), group=[late], now=21.0)
        new = Admission(ALICE, "a2", base_round=7, weight=2, round=8, position=0)
        assert await store.find_admission(TASK, ALICE, rounds=[8, 7]) == [new, an_admission(ALICE, 0)]
        assert await store.find_admission(TASK, ALICE, rounds=[6, 7, 9]) == [an_admission(ALICE, 0)]
        assert await store.find_admission(TASK, CAROL, rounds=[7, 8]) == []
        assert await store.find_admission(TASK, ALICE, rounds=[]) == []

    # Closing

    async def test_a_closer_is_given_a_lease(self, store: RoundStore) -> None:
        before = await contributed(store, ALICE, BOB)
        started = await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=ODD_TIME, now=20.0)
        assert started.status == replace(
            before, state=State.AGGREGATING, revision=2, closer=REPLICA, closer_until=ODD_TIME
        )
        assert await store.read_status(TASK) == started.status

    async def test_nobody_takes_over_before_the_closers_lease_ends(self, store: RoundStore) -> None:
        await closing(store, until=ODD_TIME)
        for closer in (REPLICA, OTHER_REPLICA):
            with pytest.raises(NotDue):
                await store.start_closing(TASK, epoch=EPOCH, number=7, closer=closer, until=2e9, now=1763686800.1234565)
        started = await store.start_closing(TASK, epoch=EPOCH, number=7, closer=OTHER_REPLICA, until=2e9, now=ODD_TIME)
        assert (started.status.closer, started.status.closer_until, started.status.revision) == (OTHER_REPLICA, 2e9, 3)

    async def test_a_closers_lease_is_compared_as_a_number(self, store: RoundStore) -> None:
        await contributed(store, ALICE, BOB, now=2.0)
        await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=100.0, now=20.0)
        with pytest.raises(NotDue):
            await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=200.0, now=99.0)
        with pytest.raises(NotDue):
            await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=200.0, now=3.5)

    async def test_taking_over_on_the_same_terms_is_no_change(self, store: RoundStore) -> None:
        status = await closing(store, until=30.0)
        started = await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, now=30.0)
        assert started.status == status

    async def test_whoever_takes_over_to_the_same_moment_is_the_closer(self, store: RoundStore) -> None:
        status = await closing(store, until=30.0)
        started = await store.start_closing(TASK, epoch=EPOCH, number=7, closer=OTHER_REPLICA, until=30.0, now=30.0)
        assert started.status == replace(status, closer=OTHER_REPLICA, revision=3)

    @pytest.mark.parametrize(("epoch", "number"), [("other", 7), (EPOCH, 6), (EPOCH, 8)])
    async def test_no_restoring_starts_in_another_round(self, store: RoundStore, epoch: str, number: int) -> None:
        before = await contributed(store, ALICE)
        with pytest.raises(NotDue):
            await store.start_restoring(
                TASK, epoch=epoch, number=number, closer=REPLICA, until=30.0, restoring=RESTORING
            )
        assert await store.read_status(TASK) == before

    @pytest.mark.parametrize(("epoch", "number"), [("other", 7), (EPOCH, 6), (EPOCH, 8)])
    async def test_another_round_is_not_closed(self, store: RoundStore, epoch: str, number: int) -> None:
        before = await contributed(store, ALICE, BOB)
        with pytest.raises(NotDue):
            await store.start_closing(TASK, epoch=epoch, number=number, closer=REPLICA, until=30.0, now=20.0)
        assert await store.read_status(TASK) == before

    async def test_of_many_closers_one_starts(self, store: RoundStore) -> None:
        await contributed(store, ALICE, BOB)
        closers = [ReplicaId(f"replica-{index}") for index in range(10)]
        answers = await asyncio.gather(
            *(
                store.start_closing(TASK, epoch=EPOCH, number=7, closer=closer, until=30.0, now=20.0)
                for closer in closers
            ),
            return_exceptions=True,
        )
        assert sorted(type(answer) is NotDue for answer in answers) == [False] + [True] * 9

    async def test_a_closing_round_is_read_whole_and_in_order(self, store: RoundStore) -> None:
        await opened(store)
        for who, replica_id in ((CAROL, OTHER_REPLICA), (ALICE, REPLICA), (BOB, ReplicaId("replica-0"))):
            await store.commit_group(
                TASK, epoch=EPOCH, number=7, pointer=a_pointer(1, 4, replica_id), group=[a_contribution(who)], now=2.0
            )
        started = await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, now=20.0)
        read = await store.read_closing(TASK, epoch=EPOCH, number=7)
        assert read == started
        assert read.admissions == (an_admission(CAROL, 0), an_admission(ALICE, 1), an_admission(BOB, 2))
        assert read.sums == (
            a_pointer(1, 4, ReplicaId("replica-0")),
            a_pointer(1, 4, REPLICA),
            a_pointer(1, 4, OTHER_REPLICA),
        )

    async def test_a_pointer_is_the_last_that_was_committed(self, store: RoundStore) -> None:
        await contributed(store, ALICE)
        moved = replace(a_pointer(2, 8), blob="sums/titanic/000000000007/replica-1.1", digest="6e" * 32)
        await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=moved, group=[a_contribution(BOB)], now=2.0)
        await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, now=20.0)
        assert (await store.read_closing(TASK, epoch=EPOCH, number=7)).sums == (moved,)

    async def test_a_round_that_does_not_close_cannot_be_read_or_finished(self, store: RoundStore) -> None:
        before = await contributed(store, ALICE, BOB)
        with pytest.raises(RoundMoved):
            await store.read_closing(TASK, epoch=EPOCH, number=7)
        with pytest.raises(RoundMoved):
            await store.finish_closing(TASK, epoch=EPOCH, number=7)
        assert await store.read_status(TASK) == before

    @pytest.mark.parametrize(("epoch", "number"), [("other", 7), (EPOCH, 6), (EPOCH, 8)])
    async def test_another_closing_round_cannot_be_read_or_finished(
        self, store: RoundStore, epoch: str, number: int
    ) -> None:
        before = await closing(store)
        with pytest.raises(RoundMoved):
            await store.read_closing(TASK, epoch=epoch, number=number)
        with pytest.raises(RoundMoved):
            await store.finish_closing(TASK, epoch=epoch, number=number)
        assert await store.read_status(TASK) == before

    async def test_the_next_round_starts_empty(self, store: RoundStore) -> None:
        await opened(store)
        await store.join(TASK, [ALICE, CAROL], lease_until=50.0, now=1.0)
        await closing(store)
        status = await store.finish_closing(TASK, epoch=EPOCH, number=7)
        assert status == replace(a_status(8), revision=4, participants=2, last_contributions=2, contributions_ever=2)
        assert await store.read_status(TASK) == status

    async def test_of_two_closers_one_finishes(self, store: RoundStore) -> None:
        await closing(store)
        answers = await asyncio.gather(
            *(store.finish_closing(TASK, epoch=EPOCH, number=7) for _ in range(2)), return_exceptions=True
        )
        assert sorted(type(answer) is RoundMoved for answer in answers) == [False, True]
        status = await store.read_status(TASK)
        assert status is not None
        assert status.number == 8

    async def test_contributions_are_counted_over_all_rounds(self, store: RoundStore) -> None:
        await closing(store)
        await store.finish_closing(TASK, epoch=EPOCH, number=7)
        group = [Contribution(who, "x", base_round=8, weight=1) for who in (ALICE, BOB, CAROL)]
        await store.commit_group(TASK, epoch=EPOCH, number=8, pointer=a_pointer(3, 3), group=group, now=21.0)
        await store.start_closing(TASK, epoch=EPOCH, number=8, closer=REPLICA, until=90.0, now=60.0)
        assert (await store.read_closing(TASK, epoch=EPOCH, number=8)).sums == (a_pointer(3, 3),)
        status = await store.finish_closing(TASK, epoch=EPOCH, number=8)
        assert (status.number, status.last_contributions, status.contributions_ever) == (9, 3, 5)

    async def test_a_version_that_exists_already_says_how_many_are_counted(self, store: RoundStore) -> None:
        await closing(store)
        status = await store.finish_closing(TASK, epoch=EPOCH, number=7, contributions=3, contributions_ever=40)
        assert (status.number, status.last_contributions, status.contributions_ever) == (8, 3, 40)

    async def test_counting_over_all_rounds_goes_on_where_it_is_told_to(self, store: RoundStore) -> None:
        status = await store.open_round(TASK, POLICY, number=7, now=1.0, contributions_ever=38)
        assert status.contributions_ever == 38
        await closing(store)
        assert (await store.finish_closing(TASK, epoch=EPOCH, number=7)).contributions_ever == 40

    # Losing bytes

    async def test_older_states_of_a_sum_are_kept_with_its_pointer(self, store: RoundStore) -> None:
        await contributed(store, ALICE)
        older = replace(a_pointer(), blob="sums/titanic/000000000007/replica-1.2")
        newest = replace(a_pointer(2, 8), earlier=(a_pointer(), older))
        await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=newest, group=[a_contribution(BOB)], now=2.0)
        await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, now=20.0)
        assert (await store.read_closing(TASK, epoch=EPOCH, number=7)).sums == (newest,)

    async def test_every_admission_names_its_sum(self, store: RoundStore) -> None:
        await contributed(store, ALICE)
        await store.commit_group(
            TASK, epoch=EPOCH, number=7, pointer=a_pointer(1, 4, OTHER_REPLICA), group=[a_contribution(BOB)], now=2.0
        )
        await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, now=20.0)
        read = await store.read_closing(TASK, epoch=EPOCH, number=7)
        assert [admission.sum for admission in read.admissions] == [REPLICA, OTHER_REPLICA]

    async def test_lost_contributions_are_out_of_the_round_and_it_collects_again(
        self, store: RoundStore, fresh_epochs: list[str]
    ) -> None:
        before = await closing(store)
        fresh_epochs.append("second")
        status = await store.lose_contributions(
            TASK, epoch=EPOCH, number=7, revision=2, participant_ids=[ALICE], sums={REPLICA: a_pointer()}
        )
        assert status == replace(
            before,
            epoch="second",
            state=State.COLLECTING,
            revision=3,
            contributions=1,
            absent_contributors=1,
            total_weight=4,
            closer=None,
            closer_until=None,
            lost=1,
        )
        assert await store.read_status(TASK) == status
        assert await store.find_admission(TASK, ALICE, rounds=[7]) == []
        # Its position is given to nobody else, and it may be sent once more.
        group = [a_contribution(ALICE)]
        pointer = a_pointer(1, 4, OTHER_REPLICA)
        admitted, _ = await store.commit_group(TASK, epoch="second", number=7, pointer=pointer, group=group, now=40.0)
        assert admitted == [an_admission(ALICE, 2)]
        read = await store.start_closing(TASK, epoch="second", number=7, closer=REPLICA, until=90.0, now=60.0)
        assert await store.read_closing(TASK, epoch="second", number=7) == read
        assert read.admissions == (an_admission(BOB, 1), an_admission(ALICE, 2))
        assert read.sums == (a_pointer(), pointer)
        assert read.lost == (an_admission(ALICE, 0),)
        after = await store.finish_closing(TASK, epoch="second", number=7)
        assert (after.number, after.lost, after.last_contributions) == (8, 0, 2)

    async def test_a_round_of_which_all_is_lost_begins_anew(self, store: RoundStore, fresh_epochs: list[str]) -> None:
        await closing(store)
        fresh_epochs.append("second")
        status = await store.lose_contributions(
            TASK, epoch=EPOCH, number=7, revision=2, participant_ids=[ALICE, BOB], sums={REPLICA: None}
        )
        assert status == replace(a_status(), epoch="second", revision=3, lost=2)
        read = await store.start_closing(TASK, epoch="second", number=7, closer=REPLICA, until=90.0, now=60.0)
        assert await store.read_closing(TASK, epoch="second", number=7) == read
        assert (read.admissions, read.sums) == ((), ())
        assert read.lost == (an_admission(ALICE, 0), an_admission(BOB, 1))

    @pytest.mark.parametrize(
        ("epoch", "number", "revision"), [("other", 7, 2), (EPOCH, 6, 2), (EPOCH, 8, 2), (EPOCH, 7, 1)]
    )
    async def test_nothing_is_lost_from_another_round_or_another_state_of_it(
        self, store: RoundStore, epoch: str, number: int, revision: int
    ) -> None:
        before = await closing(store)
        with pytest.raises(RoundMoved):
            await store.lose_contributions(
                TASK, epoch=epoch, number=number, revision=revision, participant_ids=[ALICE], sums={REPLICA: None}
            )
        assert await store.read_status(TASK) == before

    async def test_a_round_that_collects_can_be_read_and_can_lose_contributions(
        self, store: RoundStore, fresh_epochs: list[str]
    ) -> None:
        before = await contributed(store, ALICE, BOB)
        read = await store.read_closing(TASK, epoch=EPOCH, number=7, in_any_state=True)
        assert (read.status, read.sums) == (before, (a_pointer(2, 8),))
        fresh_epochs.append("second")
        status = await store.lose_contributions(
            TASK, epoch=EPOCH, number=7, revision=before.revision, participant_ids=[BOB], sums={REPLICA: a_pointer()}
        )
        assert status == replace(
            before, epoch="second", revision=2, contributions=1, absent_contributors=1, total_weight=4, lost=1
        )

    async def test_where_a_version_is_lost_the_round_before_is_as_it_was_when_it_was_closed(
        self, store: RoundStore, fresh_epochs: list[str]
    ) -> None:
        before = await contributed(store, ALICE, BOB)
        await store.join(TASK, [ALICE, CAROL], lease_until=99.0, now=3.0)
        await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, now=20.0)
        await store.set_policy(TASK, replace(POLICY, max_total_weight=POLICY.max_total_weight - 1), now=20.0)
        await store.finish_closing(TASK, epoch=EPOCH, number=7)
        later = Contribution(CAROL, "c1", base_round=8, weight=1)
        await store.commit_group(TASK, epoch=EPOCH, number=8, pointer=a_pointer(1, 1), group=[later], now=21.0)
        fresh_epochs.append("second")
        status = await store.lose_version(TASK, epoch=EPOCH, number=8)
        assert status == replace(
            before,
            epoch="second",
            policy=replace(POLICY, max_total_weight=POLICY.max_total_weight - 1),
            revision=status.revision,
            participants=2,
            absent_contributors=1,
        )
        assert status.revision > before.revision
        assert await store.read_status(TASK) == status
        assert await store.find_admission(TASK, ALICE, rounds=[7, 8]) == [an_admission(ALICE, 0)]
        assert await store.find_admission(TASK, CAROL, rounds=[7, 8]) == []
        read = await store.start_closing(TASK, epoch="second", number=7, closer=REPLICA, until=90.0, now=60.0)
        assert await store.read_closing(TASK, epoch="second", number=7) == read
        assert (read.admissions, read.lost) == ((an_admission(ALICE, 0), an_admission(BOB, 1)), ())
        assert read.sums == (a_pointer(2, 8),)
        assert (await store.finish_closing(TASK, epoch="second", number=7)).contributions_ever == 2
        # The round of the same number that comes then knows what was lost.
        await store.start_closing(TASK, epoch="second", number=8, closer=REPLICA, until=90.0, now=60.0)
        read = await store.read_closing(TASK, epoch="second", number=8)
        assert read.lost == (Admission(CAROL, "c1", base_round=8, weight=1, round=8, position=0),)
        await store.finish_closing(TASK, epoch="second", number=8)
        await store.start_closing(TASK, epoch="second", number=9, closer=REPLICA, until=90.0, now=60.0)
        assert (await store.read_closing(TASK, epoch="second", number=9)).lost == ()

    async def test_who_contributed_to_the_round_before_and_is_present_is_not_absent_in_it(
        self, store: RoundStore, fresh_epochs: list[str]
    ) -> None:
        await closing(store)
        await store.finish_closing(TASK, epoch=EPOCH, number=7)
        await store.join(TASK, [ALICE, BOB], lease_until=99.0, now=21.0)
        fresh_epochs.append("second")
        status = await store.lose_version(TASK, epoch=EPOCH, number=8)
        assert (status.contributions, status.participants, status.absent_contributors) == (2, 2, 0)

    async def test_a_round_before_that_nobody_knows_is_collected_anew(
        self, store: RoundStore, fresh_epochs: list[str]
    ) -> None:
        await contributed(store, ALICE)
        fresh_epochs.append("second")
        status = await store.lose_version(TASK, epoch=EPOCH, number=7)
        assert status == replace(a_status(6), epoch="second", revision=2)

    @pytest.mark.parametrize(("epoch", "number"), [("other", 7), (EPOCH, 6), (EPOCH, 8)])
    async def test_no_version_is_lost_by_who_believes_in_another_round(
        self, store: RoundStore, epoch: str, number: int
    ) -> None:
        before = await closing(store)
        with pytest.raises(RoundMoved):
            await store.lose_version(TASK, epoch=epoch, number=number)
        assert await store.read_status(TASK) == before

    async def test_version_0_is_never_lost(self, store: RoundStore) -> None:
        before = await store.open_round(TASK, POLICY, number=0, now=1.0)
        with pytest.raises(RoundMoved):
            await store.lose_version(TASK, epoch=EPOCH, number=0)
        assert await store.read_status(TASK) == before

    # Rolling back

    async def test_a_round_is_ended_for_a_rollback_though_it_is_not_due(self, store: RoundStore) -> None:
        before = await contributed(store, ALICE)
        status = await store.start_restoring(
            TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, restoring=RESTORING
        )
        assert status == replace(
            before, state=State.AGGREGATING, revision=2, closer=REPLICA, closer_until=30.0, restoring=RESTORING
        )
        assert await store.read_status(TASK) == status
        assert (await store.read_closing(TASK, epoch=EPOCH, number=7)).admissions == (an_admission(ALICE, 0),)

    async def test_an_empty_round_is_ended_for_a_rollback_too(self, store: RoundStore) -> None:
        await opened(store)
        await store.start_restoring(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, restoring=RESTORING)
        read = await store.read_closing(TASK, epoch=EPOCH, number=7)
        assert (read.admissions, read.sums, read.status.restoring) == ((), (), RESTORING)
        status = await store.finish_closing(TASK, epoch=EPOCH, number=7)
        assert status == replace(a_status(8), revision=2, oldest_base=8)

    async def test_whoever_takes_over_finds_what_is_restored(self, store: RoundStore) -> None:
        await opened(store)
        await store.start_restoring(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, restoring=RESTORING)
        started = await store.start_closing(TASK, epoch=EPOCH, number=7, closer=OTHER_REPLICA, until=60.0, now=30.0)
        assert (started.status.closer, started.status.restoring) == (OTHER_REPLICA, RESTORING)

    async def test_the_oldest_base_stays_through_the_rounds_that_follow(self, store: RoundStore) -> None:
        await opened(store)
        await store.start_restoring(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, restoring=RESTORING)
        await store.finish_closing(TASK, epoch=EPOCH, number=7)
        group = [Contribution(ALICE, "x", base_round=8, weight=1), Contribution(BOB, "y", base_round=8, weight=1)]
        await store.commit_group(TASK, epoch=EPOCH, number=8, pointer=a_pointer(2, 2), group=group, now=21.0)
        await store.start_closing(TASK, epoch=EPOCH, number=8, closer=REPLICA, until=90.0, now=60.0)
        status = await store.finish_closing(TASK, epoch=EPOCH, number=8)
        assert (status.number, status.oldest_base, status.restoring) == (9, 8, None)

    async def test_a_round_that_closes_already_is_not_rolled_back(self, store: RoundStore) -> None:
        before = await closing(store, until=30.0)
        for number, epoch in ((7, EPOCH), (6, EPOCH), (8, EPOCH), (7, "other")):
            with pytest.raises(NotDue):
                await store.start_restoring(
                    TASK, epoch=epoch, number=number, closer=OTHER_REPLICA, until=99.0, restoring=RESTORING
                )
        assert await store.read_status(TASK) == before

    async def test_a_task_without_round_is_not_rolled_back(self, store: RoundStore) -> None:
        with pytest.raises(NotDue):
            await store.start_restoring(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, restoring=RESTORING)

    # Policies

    async def test_a_new_policy_holds_at_once_and_its_cap_from_the_next_round_on(self, store: RoundStore) -> None:
        await contributed(store, ALICE, BOB)
        policy = Policy(min_participants=1, quorum_share=None, quorum_count=2, max_total_weight=99)
        status = await store.set_policy(TASK, policy, now=3.0)
        assert (status.policy, status.weight_cap, status.revision) == (policy, 20, 2)
        await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, now=20.0)
        status = await store.finish_closing(TASK, epoch=EPOCH, number=7)
        assert (status.policy, status.weight_cap) == (policy, 99)

    async def test_the_same_policy_again_is_no_change(self, store: RoundStore) -> None:
        before = await opened(store)
        assert await store.set_policy(TASK, replace(POLICY), now=3.0) == before

    # Norms

    async def test_norms_of_what_is_admitted_are_remembered_the_newest_first(self, store: RoundStore) -> None:
        await opened(store)
        assert await store.read_norms(TASK) == []
        group = [
            replace(a_contribution(ALICE), norm=0.1),
            a_contribution(BOB),
            replace(a_contribution(CAROL), norm=0.0),
        ]
        await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=a_pointer(3, 12), group=group, now=2.0)
        assert await store.read_norms(TASK) == [0.1]
        other = replace(a_contribution(ParticipantId("dave")), norm=1763686800.1234567)
        await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=a_pointer(4, 16), group=[other], now=2.0)
        await store.start_closing(TASK, epoch=EPOCH, number=7, closer=REPLICA, until=30.0, now=20.0)
        await store.finish_closing(TASK, epoch=EPOCH, number=7)
        assert await store.read_norms(TASK) == [1763686800.1234567, 0.1]
        assert await store.read_norms(OTHER_TASK) == []

    async def test_norms_of_what_is_not_admitted_are_not_remembered_nor_any_twice(self, store: RoundStore) -> None:
        await opened(store)
        group = [replace(a_contribution(ALICE), norm=0.5)]
        for _ in range(2):
            with suppress(GroupConflict):
                await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=a_pointer(), group=group, now=2.0)
        both = [replace(a_contribution(BOB), norm=0.7), replace(a_contribution(ALICE, "other"), norm=0.9)]
        with pytest.raises(GroupConflict):
            await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=a_pointer(), group=both, now=2.0)
        with pytest.raises(RoundMoved):
            await store.commit_group(TASK, epoch="other", number=7, pointer=a_pointer(), group=both[:1], now=2.0)
        assert await store.read_norms(TASK) == [0.5]

    async def test_only_so_many_norms_are_remembered(self, store: RoundStore) -> None:
        await store.open_round(TASK, replace(POLICY, max_total_weight=2**20), number=7, now=1.0)
        group = [Contribution(ParticipantId(f"p{n}"), "x", 7, 1, norm=n + 1.0) for n in range(NORMS_KEPT + 3)]
        pointer = a_pointer(len(group), len(group))
        await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=pointer, group=group, now=2.0)
        assert await store.read_norms(TASK) == [float(n) for n in range(NORMS_KEPT + 3, 3, -1)]

    # Refusals

    async def test_refusals_are_listed_the_newest_first_page_by_page(self, store: RoundStore) -> None:
        assert await store.list_refusals(TASK, limit=5) == ([], "")
        await store.note_refusals(TASK, [a_refusal(n) for n in range(3)])
        await store.note_refusals(TASK, [a_refusal(n) for n in range(3, 5)])
        await store.note_refusals(OTHER_TASK, [a_refusal(99)])
        first, token = await store.list_refusals(TASK, limit=2)
        assert first == [a_refusal(4), a_refusal(3)]
        await store.note_refusals(TASK, [a_refusal(5)])  # no page after it shifts
        second, token = await store.list_refusals(TASK, limit=2, before=token)
        assert second == [a_refusal(2), a_refusal(1)]
        assert await store.list_refusals(TASK, limit=2, before=token) == ([a_refusal(0)], "")
        assert await store.list_refusals(TASK, limit=6) == ([a_refusal(n) for n in range(5, -1, -1)], "")

    async def test_only_so_many_refusals_are_kept(self, store: RoundStore) -> None:
        for start in range(0, REFUSALS_KEPT + 40, 37):
            await store.note_refusals(TASK, [a_refusal(start + n) for n in range(37)])
        kept, token = await store.list_refusals(TASK, limit=REFUSALS_KEPT + 1)
        assert (len(kept), token) == (REFUSALS_KEPT, "")
        assert kept[0].round - kept[-1].round == REFUSALS_KEPT - 1
        await store.note_refusals(OTHER_TASK, [a_refusal(n) for n in range(REFUSALS_KEPT + 5)])
        kept, _ = await store.list_refusals(OTHER_TASK, limit=REFUSALS_KEPT)
        assert (kept[0].round, kept[-1].round) == (REFUSALS_KEPT + 4, 5)

    @pytest.mark.parametrize("token", ["x", "-", "1-", "-1", "1;2", "9" * 40 + "x", "١"])
    async def test_a_token_that_is_none_is_refused(self, store: RoundStore, token: str) -> None:
        with pytest.raises(MalformedMessage):
            await store.list_refusals(TASK, limit=5, before=token)

    async def test_norms_and_refusals_go_with_the_round_of_a_deleted_task(self, store: RoundStore) -> None:
        await opened(store)
        group = [replace(a_contribution(ALICE), norm=0.1)]
        await store.commit_group(TASK, epoch=EPOCH, number=7, pointer=a_pointer(), group=group, now=2.0)
        await store.note_refusals(TASK, [a_refusal(1)])
        await store.drop_round(TASK)
        assert (await store.read_norms(TASK), await store.list_refusals(TASK, limit=5)) == ([], ([], ""))

    # Metadata

    async def test_texts_of_the_newest_round_not_above_are_read(self, store: RoundStore) -> None:
        await store.put_metadata(TASK, ALICE, round=3, key="loss", value="0.5")
        await store.put_metadata(TASK, BOB, round=3, key="loss", value="état: 0.25 ☃")
        await store.put_metadata(TASK, ALICE, round=11, key="loss", value="0.125")
        await store.put_metadata(TASK, ALICE, round=4, key="accuracy", value="")
        assert await store.get_metadata(TASK, round=10, key="loss") == (3, {ALICE: "0.5", BOB: "état: 0.25 ☃"})
        assert await store.get_metadata(TASK, round=11, key="loss") == (11, {ALICE: "0.125"})
        assert await store.get_metadata(TASK, round=9, key="accuracy") == (4, {ALICE: ""})

    async def test_no_texts_are_an_empty_map_of_round_zero(self, store: RoundStore) -> None:
        await store.put_metadata(TASK, ALICE, round=3, key="loss", value="0.5")
        assert await store.get_metadata(TASK, round=2, key="loss") == (0, {})
        assert await store.get_metadata(TASK, round=9, key="other") == (0, {})
        assert await store.get_metadata(OTHER_TASK, round=9, key="loss") == (0, {})

    async def test_a_text_put_again_is_replaced(self, store: RoundStore) -> None:
        await store.put_metadata(TASK, ALICE, round=0, key="loss", value="0.5")
        await store.put_metadata(TASK, ALICE, round=0, key="loss", value="0.25")
        assert await store.get_metadata(TASK, round=0, key="loss") == (0, {ALICE: "0.25"})

    # Watching

    async def test_a_watcher_is_told_of_every_open_task_and_then_of_every_change(self, store: RoundStore) -> None:
        await opened(store)
        await store.open_round(OTHER_TASK, POLICY, number=0, now=1.0)
        async with aclosing(store.watch()) as hints, asyncio.timeout(10):
            assert [await anext(hints), await anext(hints)] == [Hint(OTHER_TASK, None), Hint(TASK, None)]
            changes = [
                lambda: store.join(TASK, [ALICE], lease_until=10.0, now=1.0),
                lambda: store.leave(TASK, ALICE, now=1.0),
                lambda: store.set_policy(TASK, replace(POLICY, deadline_s=3.0), now=1.0),
                lambda: closing(store),
                lambda: store.finish_closing(TASK, epoch=EPOCH, number=7),
                lambda: store.join(TASK, [ALICE], lease_until=10.0, now=1.0),
                lambda: store.expire_leases(TASK, now=10.0),
            ]
            for change in changes:
                after = await change()
                if change is changes[3]:  # a group, and the start of closing
                    assert await anext(hints) == Hint(TASK, (EPOCH, after.revision - 1))
                assert await anext(hints) == Hint(TASK, (EPOCH, after.revision))
            new = await store.open_round(TaskId("new"), POLICY, number=0, now=1.0)
            assert await anext(hints) == Hint(TaskId("new"), (new.epoch, new.revision))

    async def test_a_watcher_is_told_of_what_is_lost_and_of_a_restoring(
        self, store: RoundStore, fresh_epochs: list[str]
    ) -> None:
        await closing(store)
        async with aclosing(store.watch()) as hints, asyncio.timeout(10):
            assert (await anext(hints)).task_id == TASK
            fresh_epochs.append("second")
            after = await store.lose_contributions(
                TASK, epoch=EPOCH, number=7, revision=2, participant_ids=[ALICE], sums={REPLICA: a_pointer()}
            )
            assert await anext(hints) == Hint(TASK, ("second", after.revision))
            fresh_epochs.append("third")
            after = await store.lose_version(TASK, epoch="second", number=7)
            assert await anext(hints) == Hint(TASK, ("third", after.revision))
            after = await store.start_restoring(
                TASK, epoch="third", number=6, closer=REPLICA, until=30.0, restoring=RESTORING
            )
            assert await anext(hints) == Hint(TASK, ("third", after.revision))

    async def test_what_changes_nothing_is_not_told(self, store: RoundStore) -> None:
        await contributed(store, ALICE)
        await store.join(TASK, [ALICE], lease_until=10.0, now=1.0)
        async with aclosing(store.watch()) as hints, asyncio.timeout(10):
            assert (await anext(hints)).task_id == TASK
            await store.join(TASK, [ALICE], lease_until=20.0, now=2.0)
            await store.join(TASK, [ALICE], lease_until=20.0, now=2.0)
            await store.leave(TASK, BOB, now=2.0)
            await store.expire_leases(TASK, now=2.0)
            await store.set_policy(TASK, replace(POLICY), now=2.0)
            await opened(store)
            with pytest.raises(GroupConflict):
                await store.commit_group(
                    TASK, epoch=EPOCH, number=7, pointer=a_pointer(), group=[a_contribution(ALICE)], now=3.0
                )
            with pytest.raises(RoundMoved):
                await store.finish_closing(TASK, epoch=EPOCH, number=7)
            await store.open_round(OTHER_TASK, POLICY, number=0, now=1.0)
            assert (await anext(hints)).task_id == OTHER_TASK
