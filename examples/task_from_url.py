"""A server with a task whose model is fetched from a URL, with its shards. Copy it.

    python -m examples.task_from_url https://storage.googleapis.com/tfjs-models/tfjs/iris_v1/model.json

Only https, and only public addresses; DISCO_FETCH_NETWORKS names networks of one's own.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from disco_server import Disco

TASK_FILE = Path(__file__).parent / "iris" / "task.json"


async def main(url: str) -> None:
    disco = Disco()
    await disco.add_task(json.loads(TASK_FILE.read_text(encoding="utf-8")), url)
    await disco.serve()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
