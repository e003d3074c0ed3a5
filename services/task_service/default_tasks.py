"""The tasks that a fresh server offers: records and models, built here, stored by the catalog.

Values are those of the newest generation of clients that has the task (protocol section 6.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from learning.ids import TaskId
from learning.policy import Policy
from learning.task import DataExample, DataKind, DisplayInformation, Scheme, Task, TrainingInformation
from services.task_service import architectures, gpt

_SAMPLES = "https://storage.googleapis.com/deai-313515.appspot.com"

_FEDERATED = Policy(min_participants=2, deadline_s=10.0)
_DECENTRALIZED = Policy(min_participants=3, deadline_s=8.0)


@dataclass(frozen=True, slots=True)
class DefaultTask:
    """What the catalog needs to create it; weights are initialized there."""

    task: Task
    kind: str
    """"tfjs" or "gpt"."""
    topology_json: str


def _with_tfjs(task: Task, model: Mapping[str, Any]) -> DefaultTask:
    return DefaultTask(task, "tfjs", architectures.topology_json(model))


def titanic() -> DefaultTask:
    example = {
        "PassengerId": "1",
        "Survived": "0",
        "Name": "Braund, Mr. Owen Harris",
        "Sex": "male",
        "Age": "22",
        "SibSp": "1",
        "Parch": "0",
        "Ticket": "A/5 21171",
        "Fare": "7.25",
        "Cabin": "",
        "Embarked": "S",
        "Pclass": "3",
    }
    display = DisplayInformation(
        title="Titanic Prediction",
        preview="Learn from a passenger list who survived the sinking of the Titanic.",
        overview=(
            "A small table of passengers, their ages, fares, classes and relatives aboard, and whether they survived. "
            "The task is quick to train, which makes it a good first one."
        ),
        tradeoffs="Four small dense layers train in moments and leave some accuracy on the table.",
        limitations="The inputs are used as they come, without scaling.",
        model="Four dense layers with 124, 64, 32 and 1 units.",
        data_format="A CSV file with a header line and the columns listed here; missing values may stay empty.",
        data_example_text="One passenger. The column Survived is what the model learns to predict.",
        data_example=tuple(DataExample(name, value) for name, value in example.items()),
        headers=tuple(example),
        sample_dataset_link=f"{_SAMPLES}/example_training_data/titanic_train.csv",
        sample_dataset_instructions="Download the file and connect it as it is.",
    )
    training = TrainingInformation(
        epochs=10,
        batch_size=30,
        validation_split=0.2,
        round_duration_batches=10,
        round_duration_epochs=2,
        input_columns=("Age", "SibSp", "Parch", "Fare", "Pclass"),
        output_columns=("Survived",),
        preprocessing=("sanitize",),
        optimizer="adam",
        loss="binaryCrossentropy",
    )
    task = Task(TaskId("titanic"), Scheme.FEDERATED, DataKind.TABULAR, display, training, _FEDERATED)
    return _with_tfjs(task, architectures.titanic())


def mnist() -> DefaultTask:
    display = DisplayInformation(
        title="Handwritten Digit Recognition",
        preview="Learn to read handwritten digits from small pictures, peer to peer.",
        overview=(
            "The classic collection of handwritten digits. Participants exchange their weights among themselves, "
            "in shares that show nobody the weights of another one."
        ),
        tradeoffs="A small convolutional network: it trains in a browser, and larger ones read a little better.",
        model="Two convolutions, pooling, and two dense layers; 55 386 weights.",
        data_format="Pictures of one digit each, sorted by digit; they are scaled to 28 by 28 pixels.",
        data_example_text="A picture of the digit 9.",
        data_example_image=f"{_SAMPLES}/example_training_data/9-mnist-example.png",
        sample_dataset_link=f"{_SAMPLES}/example_training_data.tar.gz",
        sample_dataset_instructions="Unpack the archive and connect the pictures of each digit.",
    )
    training = TrainingInformation(
        epochs=20,
        batch_size=64,
        validation_split=0.2,
        round_duration_batches=10,
        round_duration_epochs=2,
        image_height=28,
        image_width=28,
        labels=tuple(str(digit) for digit in range(10)),
        preprocessing=("resize", "normalize"),
        optimizer="adam",
        loss="categoricalCrossentropy",
        secure_aggregation=True,
        max_share_value=100,
    )
    task = Task(TaskId("mnist"), Scheme.DECENTRALIZED, DataKind.IMAGE, display, training, _DECENTRALIZED)
    return _with_tfjs(task, architectures.mnist())


def lus_covid() -> DefaultTask:
    display = DisplayInformation(
        title="Lung Ultrasound Image Classification",
        preview="Learn to tell lung ultrasound images of patients with and without COVID apart.",
        overview="Hospitals hold such images and may not share them; together they can train on all of them.",
        tradeoffs="A network small enough for a browser.",
        limitations="A demonstration; not a medical device.",
        model="Two convolutions with pooling, and one dense layer; 19 314 weights.",
        data_format="One image per file, named after its patient (patient_image.png), sorted by diagnosis.",
        data_example_text="An ultrasound image of patient 2.",
        data_example_image=f"{_SAMPLES}/example_training_data/2_QAID_1.masked.reshaped.squared.224.png",
        sample_dataset_link="https://drive.switch.ch/index.php/s/zM5ZrUWK3taaIly",
        sample_dataset_instructions="Download the archive, unpack it, and connect the images of each diagnosis.",
    )
    training = TrainingInformation(
        model_id="lus-covid-model",
        epochs=50,
        batch_size=5,
        validation_split=0.2,
        round_duration_batches=10,
        round_duration_epochs=2,
        image_height=100,
        image_width=100,
        labels=("COVID-Positive", "COVID-Negative"),
        preprocessing=("resize", "normalize"),
        optimizer="sgd",
        loss="binaryCrossentropy",
    )
    task = Task(TaskId("lus_covid"), Scheme.FEDERATED, DataKind.IMAGE, display, training, _FEDERATED)
    return _with_tfjs(task, architectures.lus_covid())


def cifar10() -> DefaultTask:
    labels = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    display = DisplayInformation(
        title="CIFAR10",
        preview="Learn to sort pictures into ten classes by what is on them, peer to peer.",
        overview="A collection of small pictures that much of machine learning has been measured on.",
        tradeoffs="How well it learns depends on how the classes are spread over the participants.",
        limitations="The model starts untrained: here, its architecture is given and not its published weights.",
        model="MobileNet v1 with a quarter of its filters, and a dense layer of ten; 221 114 weights.",
        data_format="Pictures in a folder, and a CSV file without header: name of the picture, class.",
        data_example_text="Ten pictures of each class.",
        data_example_image=f"{_SAMPLES}/example_training_data/cifar10-example.png",
        sample_dataset_link=f"{_SAMPLES}/example_training_data.tar.gz",
        sample_dataset_instructions="Unpack the archive and connect the folder and its CSV file.",
    )
    training = TrainingInformation(
        epochs=10,
        batch_size=10,
        validation_split=0.2,
        round_duration_batches=10,
        round_duration_epochs=10,
        image_height=224,
        image_width=224,
        labels=labels,
        preprocessing=("resize", "normalize"),
        optimizer="sgd",
        loss="categoricalCrossentropy",
        clipping_radius=20,
        noise_scale=1,
        max_share_value=100,
    )
    task = Task(TaskId("cifar10"), Scheme.DECENTRALIZED, DataKind.IMAGE, display, training, _DECENTRALIZED)
    return _with_tfjs(task, architectures.cifar10())


def simple_face() -> DefaultTask:
    display = DisplayInformation(
        title="Simple Face",
        preview="Learn to tell from a portrait whether it shows a child or an adult.",
        overview="A small part of a public collection of faces.",
        tradeoffs="How well it learns depends on how the classes are spread over the participants.",
        limitations="Pictures of 200 by 200 pixels only. The model starts untrained.",
        model="MobileNet v2 with 0.35 of its filters, and two dense layers; 1 724 002 weights.",
        data_format="Pictures in a folder, and a CSV file without header: name of the picture, class.",
        data_example_text="Some of the pictures.",
        data_example_image=f"{_SAMPLES}/example_training_data/simple_face-example.png",
        sample_dataset_link=f"{_SAMPLES}/example_training_data.tar.gz",
        sample_dataset_instructions="Unpack the archive and connect the pictures of each class.",
    )
    training = TrainingInformation(
        epochs=50,
        batch_size=10,
        validation_split=0.2,
        round_duration_batches=1,
        round_duration_epochs=1,
        image_height=200,
        image_width=200,
        labels=("child", "adult"),
        preprocessing=("normalize",),
        optimizer="sgd",
        learning_rate=0.001,
        loss="categoricalCrossentropy",
    )
    task = Task(TaskId("simple_face"), Scheme.FEDERATED, DataKind.IMAGE, display, training, _FEDERATED)
    return _with_tfjs(task, architectures.simple_face())


def geotags() -> DefaultTask:
    display = DisplayInformation(
        title="GeoTags",
        preview="Learn from a photo in which cell of a grid over Switzerland it was taken.",
        overview="Photos with the place where they were taken, sorted into the 140 cells of a grid.",
        tradeoffs="Only the last layer learns, so little is computed and little can be learnt.",
        limitations=(
            "The weights that were published for this task are not part of this server: the architecture is like "
            "theirs and starts untrained, its frozen part included. Photos of 224 by 224 pixels only."
        ),
        model="A frozen MobileNet v1 with a quarter of its filters under a dense layer of 140.",
        data_format="Photos in a folder, and a CSV file without header: name of the photo, number of the cell.",
    )
    training = TrainingInformation(
        epochs=10,
        batch_size=10,
        validation_split=0.2,
        round_duration_batches=10,
        round_duration_epochs=1,
        image_height=224,
        image_width=224,
        labels=tuple(str(cell) for cell in range(140)),
        preprocessing=("resize",),
        optimizer="adam",
        loss="categoricalCrossentropy",
        clipping_radius=20,
    )
    task = Task(TaskId("geotags"), Scheme.FEDERATED, DataKind.IMAGE, display, training, _FEDERATED)
    return _with_tfjs(task, architectures.geotags())


def llm_task() -> DefaultTask:
    display = DisplayInformation(
        title="GPT Language Modeling",
        preview="Train a small language model in the browser, together.",
        overview="Every participant reads their own text; the model learns to continue all of them.",
        tradeoffs="The smallest model of its family, so that a browser can train it; do not expect good prose.",
        model="A GPT of three blocks, three heads and a width of 48; 4 915 824 weights.",
        data_format="A text file.",
        data_example_text="Any running text, for example an article of an encyclopedia.",
        sample_dataset_link="https://dax-cdn.cdn.appdomain.cloud/dax-wikitext-103/1.0.1/wikitext-103.tar.gz",
        sample_dataset_instructions="Unpack the archive and connect one of its text files.",
    )
    training = TrainingInformation(
        model_id="llm-raw-model",
        epochs=6,
        batch_size=1,
        validation_split=0.1,
        round_duration_batches=10,
        round_duration_epochs=2,
        tensor_backend="gpt",
        preprocessing=("tokenize", "left_padding"),
        optimizer="adam",
        learning_rate=0.001,
        loss="categoricalCrossentropy",
        tokenizer="Xenova/gpt2",
        max_sequence_length=128,
    )
    task = Task(TaskId("llm_task"), Scheme.FEDERATED, DataKind.TEXT, display, training, _FEDERATED)
    return DefaultTask(task, "gpt", msgspec.json.encode(gpt.NANO).decode())


def digits() -> DefaultTask:
    display = DisplayInformation(
        title="Digits of scikit-learn",
        preview="Learn to read digits of 8 by 8 pixels, from the data set that ships with scikit-learn.",
        overview=(
            "sklearn.datasets.load_digits() needs no download, which makes this the task to try with a backend. The "
            "tensors are, in this order, those of MLPClassifier(hidden_layer_sizes=(32,)): coefs_[0], "
            "intercepts_[0], coefs_[1], intercepts_[1]."
        ),
        model="A dense layer of 32 and one of 10; 2 410 weights.",
        data_format="A CSV file: 64 columns of brightness from 0 to 1, and ten that are 1 for the digit, else 0.",
    )
    training = TrainingInformation(
        epochs=10,
        batch_size=32,
        validation_split=0.2,
        round_duration_batches=10,
        round_duration_epochs=1,
        input_columns=tuple(f"pixel_{pixel}" for pixel in range(64)),
        output_columns=tuple(f"digit_{digit}" for digit in range(10)),
        optimizer="adam",
        loss="categoricalCrossentropy",
    )
    task = Task(TaskId("digits"), Scheme.FEDERATED, DataKind.TABULAR, display, training, _FEDERATED)
    return _with_tfjs(task, architectures.digits())


DEFAULT_TASKS: Mapping[str, Callable[[], DefaultTask]] = {
    build.__name__: build for build in (titanic, mnist, lus_covid, cifar10, simple_face, geotags, llm_task, digits)
}
"""By task id."""
