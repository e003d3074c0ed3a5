"""Tasks that touch every field of the record, one per kind of data."""

from learning.ids import TaskId
from learning.policy import Policy
from learning.task import DataExample, DataKind, DisplayInformation, Scheme, Task, TrainingInformation

DISPLAY = DisplayInformation(
    title="Titanic",
    preview="Who survived?",
    overview="A list of passengers.",
    tradeoffs="Small and quick.",
    limitations="One ship.",
    model="Three dense layers.",
    data_format="A CSV file.",
    data_example_text="One passenger:",
    data_example_image="https://example.org/ship.png",
    data_example=(DataExample("Age", "22"), DataExample("Name", "Mr. Owen")),
    headers=("Age", "Name"),
    sample_dataset_link="https://example.org/titanic.csv",
    sample_dataset_instructions="Unpack it.",
)

TABULAR = Task(
    task_id=TaskId("titanic"),
    scheme=Scheme.FEDERATED,
    data_kind=DataKind.TABULAR,
    display=DISPLAY,
    training=TrainingInformation(
        epochs=20,
        batch_size=30,
        validation_split=0.2,
        round_duration_batches=7,
        round_duration_epochs=5,
        model_id="titanic-network",
        input_columns=("Age", "Fare"),
        output_columns=("Survived",),
        preprocessing=("sanitize",),
        optimizer="rmsprop",
        loss="binaryCrossentropy",
        metrics=("accuracy", "mse"),
        learning_rate=0.05,
        model_url="https://example.org/model.json",
        byzantine_robust=True,
        tau_percentile=0.9,
    ),
    policy=Policy(min_participants=4),
)

IMAGE = Task(
    task_id=TaskId("mnist"),
    scheme=Scheme.DECENTRALIZED,
    data_kind=DataKind.IMAGE,
    display=DisplayInformation(title="Digits"),
    training=TrainingInformation(
        epochs=10,
        batch_size=64,
        image_height=28,
        image_width=32,
        labels=("0", "1"),
        preprocessing=("resize", "normalize"),
        clipping_radius=20,
        noise_scale=1.5,
        secure_aggregation=True,
        max_share_value=100,
    ),
    policy=Policy(min_participants=3),
)

TEXT = Task(
    task_id=TaskId("llm_task"),
    scheme=Scheme.LOCAL,
    data_kind=DataKind.TEXT,
    display=DisplayInformation(title="Words", preview="Writes on."),
    training=TrainingInformation(
        epochs=6,
        batch_size=1,
        tensor_backend="gpt",
        preprocessing=("tokenize", "left_padding"),
        tokenizer="Xenova/gpt2",
        max_sequence_length=128,
    ),
    policy=Policy(min_participants=1),
)

TASKS = (TABULAR, IMAGE, TEXT)
