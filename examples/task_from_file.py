"""A server with a task whose record and model lie in files. Copy it.

    python -m examples.task_from_file [folder with task.json and model.json]

The record is a task as the clients write it; gaps are filled.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from disco_server import Disco

IRIS = Path(__file__).parent / "iris"


async def main(folder: Path) -> None:
    disco = Disco()
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    await disco.add_task(task, folder / "model.json")
    await disco.serve()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else IRIS))
