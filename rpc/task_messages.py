"""Between the task record and disco.task.v1.Task, and between the policies: field by field, by name.

The two have the same fields (a test holds them together), so this file knows only
the exceptions: enums, the policy's deadline, and `create_time` and `revision`, which the record does not
have. What a message leaves out, or sets to zero where zero has no presence, is the
record's default. The records' own rules decide what is valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from types import NoneType
from typing import Any, get_args, get_type_hints

from disco.task.v1 import policy_pb2, task_pb2
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

from learning.policy import Policy
from learning.presets import Preset, policy_of
from learning.refusals import InvalidPolicy, InvalidTask
from learning.task import Scheme, Task

DECENTRALIZED_MIN_PARTICIPANTS = 3


def task_to_proto(task: Task) -> task_pb2.Task:
    """The message of a task. Raises InvalidTask for what a message cannot carry (a number beyond 32 bits)."""
    message = task_pb2.Task()
    _fill(message, task, path="")
    return message


def task_from_proto(message: task_pb2.Task) -> Task:
    """The task of a message. Raises InvalidTask, InvalidId, and InvalidPolicy with the path of the field."""
    values = _values(message, Task, path="", without=("policy",))
    try:
        policy = policy_from_proto(message.policy, values["scheme"])
    except InvalidPolicy as error:
        raise InvalidPolicy(field=f"policy.{error.variables['field']}", problem=error.variables["problem"]) from None
    return Task(**values, policy=policy)


def policy_to_proto(policy: Policy) -> policy_pb2.Policy:
    """The message of a policy; its deadline is rounded to a nanosecond."""
    message = policy_pb2.Policy()
    _fill(message, policy, path="policy")
    return message


def policy_from_proto(message: policy_pb2.Policy, scheme: Scheme) -> Policy:
    """The policy of a message: what is left out is as its preset says, `min_participants` as the scheme asks for.

    Raises InvalidPolicy.
    """
    values = _values(message, Policy, path="policy", without=("deadline_s",))
    if message.HasField("deadline"):
        values["deadline_s"] = message.deadline.ToNanoseconds() / 1e9
    if scheme is Scheme.DECENTRALIZED:
        values.setdefault("min_participants", DECENTRALIZED_MIN_PARTICIPANTS)
    return policy_of(_preset(message.preset), **values)


def _preset(number: int) -> Preset:
    """Raises InvalidPolicy."""
    if number == policy_pb2.Policy.PRESET_UNSPECIFIED:
        return Preset.SEMI_SYNCHRONOUS
    for preset in Preset:
        if policy_pb2.Policy.Preset.Value(f"PRESET_{preset.name}") == number:
            return preset
    raise InvalidPolicy(field="preset", problem="must be one of " + ", ".join(preset.value for preset in Preset))


def _fill(message: Message, record: Any, *, path: str) -> None:
    for name in (field.name for field in fields(record)):
        value, where = getattr(record, name), _joined(path, name)
        try:
            _set(message, name, value, path=where)
        except (ValueError, TypeError):  # what protobuf says of numbers out of range and of broken Unicode
            raise InvalidTask(field=where, problem="cannot be sent") from None


def _set(message: Any, name: str, value: Any, *, path: str) -> None:
    if value is None:
        return
    if name == "deadline_s":
        message.deadline.FromNanoseconds(round(value * 1e9))
    elif isinstance(value, Enum):
        descriptor = message.DESCRIPTOR.fields_by_name[name].enum_type
        setattr(message, name, descriptor.values_by_name[_value_name(descriptor, value)].number)
    elif is_dataclass(value):
        getattr(message, name).SetInParent()
        _fill(getattr(message, name), value, path=path)
    elif isinstance(value, tuple) and value and is_dataclass(value[0]):
        for element in value:
            _fill(getattr(message, name).add(), element, path=path)
    elif isinstance(value, tuple):
        getattr(message, name).extend(value)
    else:
        setattr(message, name, value)


def _values(message: Message, kind: type[Any], *, path: str, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The arguments that construct the record of a message, without what is left to the record's defaults."""
    hints = get_type_hints(kind)
    descriptors: Mapping[str, Any] = message.DESCRIPTOR.fields_by_name
    found = {}
    for field in fields(kind):
        if field.name not in without and not _left_to_default(message, descriptors[field.name], field):
            found[field.name] = _value(
                getattr(message, field.name), hints[field.name], descriptors[field.name], path=_joined(path, field.name)
            )
    return found


def _left_to_default(message: Message, descriptor: Any, field: Field[Any]) -> bool:
    if field.default is MISSING and field.default_factory is MISSING:
        return False  # the record's own rules say what is wrong with a zero
    if descriptor.has_presence:
        return not message.HasField(descriptor.name)
    return not getattr(message, descriptor.name)


def _value(value: Any, hint: Any, descriptor: Any, *, path: str) -> Any:
    hint = next((each for each in get_args(hint) if is_dataclass(each) and NoneType in get_args(hint)), hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum_value(value, hint, descriptor.enum_type, path=path)
    if isinstance(hint, type) and is_dataclass(hint):
        return hint(**_values(value, hint, path=path))
    if descriptor.is_repeated:
        element: Any = get_args(hint)[0]
        nested = is_dataclass(element)
        return tuple(element(**_values(each, element, path=path)) if nested else each for each in value)
    return value


def _enum_value(number: int, kind: type[Enum], descriptor: EnumDescriptor, *, path: str) -> Enum:
    for member in kind:
        if descriptor.values_by_name[_value_name(descriptor, member)].number == number:
            return member
    choices = ", ".join(str(member.value) for member in kind)
    raise InvalidTask(field=path, problem=f"must be one of {choices}")


def _value_name(descriptor: EnumDescriptor, member: Enum) -> str:
    """SCHEME_FEDERATED for Scheme.FEDERATED: the values share the prefix of the first, which ends in UNSPECIFIED."""
    return descriptor.values[0].name.removesuffix("UNSPECIFIED") + member.name


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
