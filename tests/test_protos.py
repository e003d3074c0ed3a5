"""The public contract keeps its own rules: every part is explained, every call has its own messages."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

PROTOS = Path(__file__).parents[1] / "protos"
# Numbers of the fields of descriptor.proto that lead from one part to the next.
MESSAGES, ENUMS, SERVICES = 4, 5, 6
FIELDS, NESTED_MESSAGES, NESTED_ENUMS, ONEOFS = 2, 3, 4, 8
VALUES = METHODS = 2


class Part(NamedTuple):
    """One part of a file: its name, where it is, and its descriptor."""

    name: str
    path: tuple[int, ...]
    descriptor: Any


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    output = tmp_path_factory.mktemp("protos") / "all.binpb"
    well_known = resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"--proto_path={PROTOS}", f"--proto_path={well_known}", "--include_source_info"]
    names = sorted(str(path) for path in PROTOS.rglob("*.proto"))
    assert protoc.main([*arguments, f"--descriptor_set_out={output}", *names]) == 0
    return list(FileDescriptorSet.FromString(output.read_bytes()).file)


def parts_of(file: FileDescriptorProto) -> Iterator[Part]:
    for index, service in enumerate(file.service):
        yield Part(service.name, (SERVICES, index), service)
        for number, method in enumerate(service.method):
            yield Part(f"{service.name}.{method.name}", (SERVICES, index, METHODS, number), method)
    for index, message in enumerate(file.message_type):
        yield from message_parts(message, message.name, (MESSAGES, index))
    for index, enum in enumerate(file.enum_type):
        yield from enum_parts(enum, enum.name, (ENUMS, index))


def message_parts(message: DescriptorProto, name: str, path: tuple[int, ...]) -> Iterator[Part]:
    if message.options.map_entry:
        return  # written by protoc
    yield Part(name, path, message)
    for index, field in enumerate(message.field):
        yield Part(f"{name}.{field.name}", (*path, FIELDS, index), field)
    synthetic = {field.oneof_index for field in message.field if field.proto3_optional}
    for index, oneof in enumerate(message.oneof_decl):
        if index not in synthetic:
            yield Part(f"{name}.{oneof.name}", (*path, ONEOFS, index), oneof)
    for index, nested in enumerate(message.nested_type):
        yield from message_parts(nested, f"{name}.{nested.name}", (*path, NESTED_MESSAGES, index))
    for index, enum in enumerate(message.enum_type):
        yield from enum_parts(enum, f"{name}.{enum.name}", (*path, NESTED_ENUMS, index))


def enum_parts(enum: EnumDescriptorProto, name: str, path: tuple[int, ...]) -> Iterator[Part]:
    yield Part(name, path, enum)
    for index, value in enumerate(enum.value):
        yield Part(f"{name}.{value.name}", (*path, VALUES, index), value)


def all_parts(files: list[FileDescriptorProto]) -> list[Part]:
    return [part for file in files for part in parts_of(file)]


def methods(files: list[FileDescriptorProto]) -> list[Any]:
    return [method for file in files for service in file.service for method in service.method]


def test_all_protos_are_looked_at(files: list[FileDescriptorProto]) -> None:
    names = {part.name for part in all_parts(files)}
    assert {"TaskService.GetTask", "Task.Scheme.SCHEME_LOCAL", "CreateTaskRequest.Header", "ErrorReason"} <= names
    assert len(files) == len(list(PROTOS.rglob("*.proto")))


def test_every_part_has_a_comment(files: list[FileDescriptorProto]) -> None:
    bare = []
    for file in files:
        comments = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
        bare += [f"{file.name}: {part.name}" for part in parts_of(file) if not comments.get(part.path)]
    assert bare == []


def test_the_package_is_the_folder(files: list[FileDescriptorProto]) -> None:
    assert [file.name for file in files if file.package.replace(".", "/") != str(Path(file.name).parent)] == []


def test_every_call_has_a_request_and_a_response_of_its_own(files: list[FileDescriptorProto]) -> None:
    for file in files:
        for service in file.service:
            for method in service.method:
                expected = tuple(f".{file.package}.{method.name}{kind}" for kind in ("Request", "Response"))
                assert (method.input_type, method.output_type) == expected


def test_no_message_serves_two_calls(files: list[FileDescriptorProto]) -> None:
    used = [name for method in methods(files) for name in (method.input_type, method.output_type)]
    assert len(used) == len(set(used))


def test_nothing_is_google_empty(files: list[FileDescriptorProto]) -> None:
    assert [file.name for file in files if "google/protobuf/empty.proto" in file.dependency] == []


def test_every_enum_begins_with_unspecified_and_shares_a_prefix(files: list[FileDescriptorProto]) -> None:
    enums = [part for part in all_parts(files) if isinstance(part.descriptor, EnumDescriptorProto)]
    assert enums
    for part in enums:
        first = part.descriptor.value[0]
        assert (first.number, first.name.endswith("_UNSPECIFIED")) == (0, True), part.name
        prefix = first.name.removesuffix("UNSPECIFIED")
        assert [value.name for value in part.descriptor.value if not value.name.startswith(prefix)] == [], part.name


def test_no_field_has_a_name_that_says_nothing(files: list[FileDescriptorProto]) -> None:
    vague = {"data", "info", "type", "payload"}
    assert [part.name for part in all_parts(files) if part.name.rpartition(".")[2] in vague] == []
