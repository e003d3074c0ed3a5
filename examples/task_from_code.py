"""A server with a task of one's own that is defined in code, and a route of one's own. Copy it.

    python -m examples.task_from_code

The model is a TF.js topology here; a Keras model object would do as well. Weights may be
left out: the server then begins with initial ones.
"""

from __future__ import annotations

import asyncio

from disco_server import (
    DataKind,
    Disco,
    DisplayInformation,
    ModelSource,
    Policy,
    Scheme,
    Task,
    TaskId,
    TaskProvider,
    TrainingInformation,
)

SPECIES = ("setosa", "versicolor", "virginica")


class Iris(TaskProvider):
    """Four lengths of a flower, and which of three species it is."""

    def get_task(self) -> Task:
        return Task(
            TaskId("iris"),
            Scheme.FEDERATED,
            DataKind.TABULAR,
            DisplayInformation(title="Iris", preview="Learn to tell three species of iris apart."),
            TrainingInformation(
                epochs=20,
                batch_size=10,
                validation_split=0.2,
                round_duration_epochs=2,
                input_columns=("sepal_length", "sepal_width", "petal_length", "petal_width"),
                output_columns=SPECIES,
                optimizer="adam",
                loss="categoricalCrossentropy",
            ),
            Policy(min_participants=2, deadline_s=10.0),
        )

    def get_model(self) -> ModelSource:
        layers = [dense("hidden", 8, "relu", batch_input_shape=[None, 4]), dense("species", len(SPECIES), "softmax")]
        return {"modelTopology": {"class_name": "Sequential", "config": {"name": "iris", "layers": layers}}}


def dense(name: str, units: int, activation: str, **more: object) -> dict[str, object]:
    """One layer, in TF.js' words."""
    config = {"name": name, "units": units, "activation": activation, "use_bias": True, "dtype": "float32"}
    return {"class_name": "Dense", "config": config | more}


async def hello() -> dict[str, str]:
    return {"hello": "This server is mine."}


async def main() -> None:
    disco = Disco()
    await disco.add_default_tasks(["titanic"])
    await disco.add_task(Iris())
    disco.app.add_api_route("/hello", hello)
    await disco.serve()


if __name__ == "__main__":
    asyncio.run(main())
