"""Generates `gen/` from the protos: `python protos/generate.py [--check]`.

With `--check` nothing is written: it exits with 1 and names every file under
`gen/` that is not what the protos say.
"""

from __future__ import annotations

import filecmp
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).parent
GENERATED = PROTOS.parent / "gen"


def generate(target: Path) -> None:
    """Writes Python modules, type stubs and gRPC stubs for every proto below `target`."""
    well_known = resources.files("grpc_tools") / "_proto"
    plugin_folder = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"--proto_path={PROTOS}",
        f"--proto_path={well_known}",
        f"--plugin=protoc-gen-mypy={plugin_folder / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugin_folder / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out={target}",
        f"--mypy_grpc_out={target}",
        *sorted(str(path) for path in PROTOS.rglob("*.proto")),
    ]
    if protoc.main(arguments) != 0:
        sys.exit("The protos do not compile; protoc says why above.")
    for path in target.rglob("*_pb2_grpc.py*"):
        if (
            not (PROTOS / path.relative_to(target).with_name(path.name.split("_pb2_grpc")[0] + ".proto"))
            .read_text(encoding="utf-8")
            .count("\nservice ")
        ):
            path.unlink()  # protoc writes an empty module for every proto without a service


def main() -> None:
    if "--check" not in sys.argv[1:]:
        for old in GENERATED.rglob("*_pb2*.py*"):
            old.unlink()
        GENERATED.mkdir(exist_ok=True)
        generate(GENERATED)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        wanted = {path.relative_to(folder) for path in Path(folder).rglob("*.py*")}
        found = {
            path.relative_to(GENERATED) for path in GENERATED.rglob("*_pb2*.py*") if "__pycache__" not in path.parts
        }
        drifted = wanted ^ found | {
            name for name in wanted & found if not filecmp.cmp(Path(folder, name), GENERATED / name, shallow=False)
        }
    if drifted:
        sys.exit(
            "gen/ is not what the protos say; run `make protos`. Differing: " + ", ".join(sorted(map(str, drifted)))
        )


if __name__ == "__main__":
    main()
