"""Every way in which Disco says no, with the sentence that tells what to do.

    DiscoError
    ├── Refusal         the rules say no; repeating the same call changes nothing
    │   ├── TaskNotFound, TaskAlreadyExists, InvalidTask, InvalidModel, ModelNotSent, InvalidId,
    │   │   InvalidPolicy, WrongScheme, TaskCreationDenied
    │   ├── TaskChanged, TaskFieldFixed, TaskDeleted, QuotaExceeded, TooManyUploads
    │   ├── InvalidWeights, WeightsNotFinite, WeightsOutOfBound, DigestMismatch
    │   ├── RoundStale, RoundAhead, DuplicateContribution, WeightCapReached, NormTooLarge
    │   ├── PrivacyBudgetSpent, PrivacyNotAccounted
    │   ├── TooLarge, MalformedMessage, SlowConsumer, StreamStalled, NotHandedOver
    │   ├── VersionNotFound, NotInVersion
    │   └── PeerNotConnected, PeerReplaced
    └── Fault           the world broke; the same call may work later or elsewhere
        ├── StoreUnavailable, ShuttingDown, StorageFull
        └── StoredDataDamaged, InternalError

`reason` is the name of the value of disco.errors.v1.ErrorReason (without its
prefix); `sentence` is for people and may change; `variables` are its blanks.
How a reason travels is decided in `rpc.status` and `gateway.close_codes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class DiscoError(Exception):
    """An answer other than the one that was hoped for. Construct a subclass, with its blanks by name."""

    reason: ClassVar[str]
    sentence: ClassVar[str]

    def __init__(self, **variables: object) -> None:
        self.variables = {name: str(value) for name, value in variables.items()}
        super().__init__(self.sentence.format(**self.variables))


class Refusal(DiscoError):
    """The rules say no; repeating the same call changes nothing."""


class Fault(DiscoError):
    """The world broke; the same call may work later, or on another replica."""


class TaskNotFound(Refusal):
    reason = "TASK_NOT_FOUND"
    sentence = "There is no task {task_id}. Ask for the list of tasks and use an id from it."


class TaskAlreadyExists(Refusal):
    reason = "TASK_ALREADY_EXISTS"
    sentence = "A task {task_id} exists already. Choose another id."


class InvalidTask(Refusal):
    """Says everything that is wrong at once where it can: `problems` are pairs of a field and what is wrong with it."""

    reason = "INVALID_TASK"
    sentence = "The task is not valid: {field}: {problem}."

    def __init__(self, *, problems: Iterable[tuple[str, str]] = (), **variables: object) -> None:
        self.problems = tuple(problems)
        if self.problems:
            field, problem = self.problems[0]
            variables = {"field": field, "problem": problem, **variables}
        super().__init__(**variables)
        if self.problems:
            said = "; ".join(f"{field}: {problem}" for field, problem in self.problems)
            self.args = (f"The task is not valid: {said}.",)
        else:
            self.problems = ((self.variables["field"], self.variables["problem"]),)


class InvalidModel(Refusal):
    reason = "INVALID_MODEL"
    sentence = "The model cannot be used: {problem}."


class ModelNotSent(Refusal):
    reason = "MODEL_NOT_SENT"
    sentence = (
        "Task {task_id} came with a model_url and without a model, and the task service fetches none. Send the model "
        "with the task, or let the gateway fetch it: POST /tasks with the modelURL, or `disco-server tasks add`."
    )


class InvalidId(Refusal):
    reason = "INVALID_ID"
    sentence = "The {kind} id is not valid. Use 1 to 128 of the characters A-Z, a-z, 0-9, '_', '.', '-'."


class InvalidPolicy(Refusal):
    reason = "INVALID_POLICY"
    sentence = "The policy is not valid: {field}: {problem}."


class WrongScheme(Refusal):
    reason = "WRONG_SCHEME"
    sentence = "The task {task_id} is {scheme}; this call is not for such a task."


class InvalidWeights(Refusal):
    reason = "INVALID_WEIGHTS"
    sentence = "The weights do not fit the model: {problem}. Load the model again and train that one."


class WeightsNotFinite(Refusal):
    reason = "WEIGHTS_NOT_FINITE"
    sentence = "Tensor {tensor} holds NaN or infinity. Lower the learning rate or check the data."


class WeightsOutOfBound(Refusal):
    reason = "WEIGHTS_OUT_OF_BOUND"
    sentence = "Tensor {tensor} holds a weight beyond ±{bound}. Lower the learning rate or check the data."


class DigestMismatch(Refusal):
    reason = "DIGEST_MISMATCH"
    sentence = "The bytes received have the SHA-256 {received}, not {announced}. Send them again."


class RoundStale(Refusal):
    reason = "ROUND_STALE"
    sentence = "Round {round} is over; round {current_round} is collecting. Fetch the newest version and train from it."


class RoundAhead(Refusal):
    reason = "ROUND_AHEAD"
    sentence = "Round {round} is not open yet; round {current_round} is collecting. Fetch the newest version."


class DuplicateContribution(Refusal):
    reason = "DUPLICATE_CONTRIBUTION"
    sentence = "Participant {participant_id} has contributed other weights to round {round}. Wait for the next round."


class WeightCapReached(Refusal):
    reason = "WEIGHT_CAP_REACHED"
    sentence = "The round's total weight may not exceed {cap}. Wait for the next round or send fewer samples at once."


class NormTooLarge(Refusal):
    reason = "NORM_TOO_LARGE"
    sentence = (
        "The contribution changes the model by {norm}; from others it takes up to {limit} at present. "
        "Lower the learning rate or check the data."
    )


class PrivacyBudgetSpent(Refusal):
    reason = "PRIVACY_BUDGET_SPENT"
    sentence = (
        "The task {task_id} takes no more contributions: its versions have come to ε = {epsilon} at δ = {delta}, and "
        "one more would exceed its privacy budget of {epsilon_budget}. Its newest version can be read as ever."
    )


class PrivacyNotAccounted(Refusal):
    reason = "PRIVACY_NOT_ACCOUNTED"
    sentence = (
        "This server cannot account for differential privacy: dp-accounting is not installed. Install "
        "disco-server[privacy], wherever a task service or an aggregator runs."
    )


class TooLarge(Refusal):
    reason = "TOO_LARGE"
    sentence = "That is larger than the limit of {limit_bytes} bytes."


class MalformedMessage(Refusal):
    reason = "MALFORMED_MESSAGE"
    sentence = "The message is not what the protocol says comes here: {problem}."


class VersionNotFound(Refusal):
    reason = "VERSION_NOT_FOUND"
    sentence = "Version {version} does not exist or is no longer kept. Ask for the newest one."


class NotInVersion(Refusal):
    reason = "NOT_IN_VERSION"
    sentence = (
        "No contribution with the SHA-256 {digest} is in version {version}. Use the digest and round of a receipt."
    )


class PeerNotConnected(Refusal):
    reason = "PEER_NOT_CONNECTED"
    sentence = "Peer {peer_id} is not connected. Wait for the peers of the next round."


class PeerReplaced(Refusal):
    reason = "PEER_REPLACED"
    sentence = "Peer {peer_id} has connected again elsewhere; this connection is over."


class TaskCreationDenied(Refusal):
    reason = "TASK_CREATION_DENIED"
    sentence = "Creating tasks is not allowed here: {problem}."


class TaskChanged(Refusal):
    reason = "TASK_CHANGED"
    sentence = "The task {task_id} is at revision {revision}, not {expected}. Read it again, then decide anew."


class TaskFieldFixed(Refusal):
    reason = "TASK_FIELD_FIXED"
    sentence = "The field {field} of task {task_id} stays as it was created: {problem}."


class TaskDeleted(Refusal):
    reason = "TASK_DELETED"
    sentence = "A task {task_id} was deleted. Ids are not used again, because receipts name them: choose another one."


class QuotaExceeded(Refusal):
    reason = "QUOTA_EXCEEDED"
    sentence = "This server keeps no more than that: {quota} is {limit}. Delete a task, or have the limit raised."


class TooManyUploads(Refusal):
    reason = "TOO_MANY_UPLOADS"
    sentence = "No more than {limit} uploads a minute come from one address. Try again in {seconds} seconds."


class SlowConsumer(Refusal):
    reason = "SLOW_CONSUMER"
    sentence = "Messages were not read for too long. Connect again."


class StreamStalled(Refusal):
    reason = "STREAM_STALLED"
    sentence = "Nothing came for {seconds} seconds. Send the whole again."


class NotHandedOver(Refusal):
    reason = "NOT_HANDED_OVER"
    sentence = "The file that was to hold the weights cannot be read here. Stream them with SubmitContribution."


class StoreUnavailable(Fault):
    reason = "STORE_UNAVAILABLE"
    sentence = "The state of the rounds cannot be reached at the moment. Try again."


class ShuttingDown(Fault):
    reason = "SHUTDOWN"
    sentence = "This process is stopping. Try again; another one will answer."


class StorageFull(Fault):
    reason = "STORAGE_FULL"
    sentence = "The server has no room left on its disk; nothing was stored. Tell who runs it, and try again then."


class StoredDataDamaged(Fault):
    reason = "STORED_DATA_DAMAGED"
    sentence = "{name} is not what was stored. Restore it from a copy, or use another version."


class InternalError(Fault):
    reason = "INTERNAL"
    sentence = "A bug on the server; it is logged there as request {request_id}."


def _leaves(kind: type[DiscoError]) -> list[type[DiscoError]]:
    below = kind.__subclasses__()
    return [leaf for sub in below for leaf in _leaves(sub)] if below else [kind]


BY_REASON: dict[str, type[DiscoError]] = {leaf.reason: leaf for leaf in _leaves(DiscoError)}
"""Every reason and its class."""
