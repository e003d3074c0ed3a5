"""Adds model objects of a real Keras to a server, as a program of one's own does.

    python add_objects.py SITE_PACKAGES tf_keras|keras TASK.json FOLDER

Runs in the project's environment, with the packages that `make keras` installed behind the project's own: so does a
program whose author has both. The tasks come to lie in FOLDER/data, each under the name of its model; what was said to
a model with program code in FOLDER/refusal.txt.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from disco_server import Disco
from learning.refusals import InvalidModel
from tests.services.task_service.conversion.save_models import MODELS, save


async def main(library: Any, task: dict[str, Any], folder: Path) -> None:
    disco = Disco(data_dir=folder / "data")
    for build in MODELS:
        model = save(library, build, folder)
        await disco.add_task({**task, "id": build.__name__}, model)
    layers = library.layers
    twice = library.Sequential([library.Input((4,)), layers.Lambda(lambda x: x * 2, name="twice"), layers.Dense(3)])
    try:
        await disco.add_task({**task, "id": "code"}, twice)
    except InvalidModel as refusal:
        (folder / "refusal.txt").write_text(str(refusal), encoding="utf-8")


if __name__ == "__main__":
    sys.path.append(sys.argv[1])
    keras = importlib.import_module(sys.argv[2])
    asyncio.run(main(keras, json.loads(Path(sys.argv[3]).read_text(encoding="utf-8")), Path(sys.argv[4])))
