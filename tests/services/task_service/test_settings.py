from __future__ import annotations

import pytest

from rpc.settings import load
from services.task_service.default_tasks import DEFAULT_TASKS
from services.task_service.settings import TaskServiceSettings


def test_all_default_tasks_are_there_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISCO_DEFAULT_TASKS", "DISCO_TASK_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISCO_TEST_NODE_MODULES", "a setting of the tests")
    settings = load(TaskServiceSettings)
    assert settings.default_task_ids == list(DEFAULT_TASKS)
    assert settings.task_service_port == 50051


@pytest.mark.parametrize(
    ("value", "task_ids"),
    [("none", []), ("digits", ["digits"]), (" titanic, digits ,", ["titanic", "digits"]), ("all", list(DEFAULT_TASKS))],
)
def test_default_tasks_can_be_chosen(value: str, task_ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISCO_DEFAULT_TASKS", value)
    assert load(TaskServiceSettings).default_task_ids == task_ids


@pytest.mark.parametrize("value", ["digit", "digits,all", ","])
def test_a_default_task_that_does_not_exist_stops_the_process_with_a_sentence(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISCO_DEFAULT_TASKS", value)
    with pytest.raises(SystemExit) as stopped:
        load(TaskServiceSettings)
    assert stopped.value.code == 2
    assert "DISCO_DEFAULT_TASKS must be all, none, or some of titanic, " in capsys.readouterr().err
