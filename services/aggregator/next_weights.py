"""From what a round has collected to the weights of the next version, by the rule that the task chose.

Knows the blob store and the order of things; the arithmetic is in `services.aggregator.rules`.
What a rule goes on with (momentum) is a blob that the ledger entry of the version names by
its digest, written before that entry. So whoever closes the round reads the same state and writes the same,
and after any restart the next round begins where the last one ended. A version that states no
state (the first one, one that was restored) is one to begin anew from.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from blobstore import names, records
from blobstore.records import LedgerEntry, PrivacyAccount, Rule
from blobstore.store import BlobMissing, BlobStore, Buffer
from learning.federated import RoundMoved, RoundStatus
from learning.ids import TaskId
from learning.privacy import CentralPrivacy
from learning.refusals import VersionNotFound
from roundstore.store import ClosingRound
from rpc.off_loop import off_loop, side_by_side
from services.aggregator.exact_sums import PartialSum
from services.aggregator.kept_contributions import KeptContributions
from services.aggregator.noise_secret import shared_secret
from services.aggregator.privacy_accounts import PrivacyAccounts
from services.aggregator.rounds import Rounds
from services.aggregator.rules.private_mean import Summed, disturb, means, purpose_of, rounded
from services.aggregator.rules.server_optimizers import ServerOptimizer, optimizer_of
from services.aggregator.rules.stepping import State, first_state, octets_of, stepped
from services.aggregator.unreadable import Unreadable

CHUNK_BYTES = 4 << 20
NOISE_BYTES = 256
"""Drawing the noise on one weight takes about as long as going over so many bytes."""


@dataclass(frozen=True, slots=True)
class NextWeights:
    """The weights of a version that is about to be written, and what its entry states of them."""

    weights: Buffer
    digest: str
    rule: Rule = "mean"
    state_digest: str = ""
    privacy: PrivacyAccount | None = None


class NextWeightsMaker:
    """Makes the next weights of all tasks."""

    def __init__(self, blobs: BlobStore, rounds: Rounds, accounts: PrivacyAccounts) -> None:
        self._blobs = blobs
        self._rounds = rounds
        self._accounts = accounts

    async def of_sum(self, closing: ClosingRound, merged: PartialSum) -> NextWeights:
        """Writes the state that the version's entry will name. Raises Unreadable, RoundMoved, StoredDataDamaged."""
        status = closing.status
        aggregation = (await self._rounds.task(status.task_id)).aggregation
        privacy, optimizer = aggregation.privacy, optimizer_of(aggregation)
        size = 4 * merged.plan.size
        if optimizer is None and privacy is None:
            return NextWeights(*await _mean(merged, size))
        base = await records.read_ledger_entry(self._blobs, status.task_id, status.number)
        try:
            base_weights = await records.read_weights(self._blobs, status.task_id, base)
        except VersionNotFound:
            raise RoundMoved from None  # so many rounds were closed since that it is no longer kept
        account = await self._accounts.after(base, privacy) if privacy else None
        if privacy is not None:
            await self._disturb(closing, merged, privacy, base_digest=base.digest)
        if optimizer is None:
            assert privacy is not None, "the plain mean is returned above"
            return NextWeights(
                *await off_loop(size, lambda: _digested(rounded(merged, base_weights, privacy))), privacy=account
            )
        state = await self._read_state(status.task_id, base, optimizer, size=merged.plan.size)
        mean = means(merged, base_weights, privacy) if privacy else merged.quotients()
        weights, digest = await off_loop(size, lambda: _digested(stepped(optimizer, base_weights, mean, state)))
        state_digest = await self._write_state(status, state)
        return NextWeights(weights, digest, aggregation.rule.value, state_digest, account)

    async def _disturb(
        self, closing: ClosingRound, merged: PartialSum, privacy: CentralPrivacy, *, base_digest: str
    ) -> None:
        """Adds the noise of this round, the same whoever closes it. Raises StoredDataDamaged."""
        status, secret = closing.status, await shared_secret(self._blobs)
        purpose = purpose_of(
            status.task_id,
            status.number,
            base_digest,
            privacy=privacy,
            plan=merged.plan,
            summed=[Summed(each.digest, each.base_round, each.weight) for each in closing.admissions],
        )
        heaviest = max(admission.weight for admission in closing.admissions)
        await off_loop(NOISE_BYTES * merged.plan.size, disturb, merged, secret, purpose, heaviest=heaviest)

    async def of_contributions(self, closing: ClosingRound) -> NextWeights:
        """Raises Unreadable, RoundMoved, StoredDataDamaged."""
        known = await self._rounds.task(closing.status.task_id)
        kept = KeptContributions(self._blobs, closing, size=known.model_bytes // 4)
        combined = await kept.combined(known.aggregation)
        weights, digest = await off_loop(combined.nbytes, lambda: _digested(combined.view(np.uint8).data))
        return NextWeights(weights, digest, known.aggregation.rule.value)

    async def _read_state(self, task_id: TaskId, base: LedgerEntry, optimizer: ServerOptimizer, *, size: int) -> State:
        state = first_state(optimizer, size)
        if not base.state_digest:
            return state
        name = names.rule_state(task_id, base.version, base.state_digest)
        octets, digest, read = octets_of(state), hashlib.sha256(), 0
        try:
            async for chunk in self._blobs.read_chunks(name, chunk_size=CHUNK_BYTES):
                if len(chunk) > octets.nbytes - read:
                    raise Unreadable(name)
                octets[read : read + len(chunk)] = chunk
                await off_loop(len(chunk), digest.update, chunk)
                read += len(chunk)
        except BlobMissing:
            raise Unreadable(name) from None
        if digest.hexdigest() != base.state_digest:
            raise Unreadable(name)
        return state

    async def _write_state(self, status: RoundStatus, state: State) -> str:
        octets, digest = await off_loop(state.nbytes, lambda: _digested(octets_of(state)))
        await self._blobs.keep(names.rule_state(status.task_id, status.number + 1, digest), [octets], digest=digest)
        return digest


async def _mean(merged: PartialSum, size: int) -> tuple[memoryview, str]:
    dividing = merged.begin_dividing()
    await side_by_side(size, dividing.pieces)
    return await off_loop(size, _digested, dividing.mean)


def _digested(octets: memoryview) -> tuple[memoryview, str]:
    return octets, hashlib.sha256(octets).hexdigest()
