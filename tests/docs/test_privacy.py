"""What the pages say of differential privacy is what the accountant says, and their example is a task."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gateway.dialects.task_documents import parse_task
from privacy.accountant import check_budget, epsilon_of
from services.aggregator.rules.private_mean import plan_of_changes
from services.aggregator.sum_plan import SumPlan
from tests.docs.pages import broken_links, page
from tests.services.aggregator.room import BASE, SPECS, octets

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = page("rounds.md")
EXAMPLE: dict[str, Any] = json.loads((ROOT / "examples" / "private" / "task.json").read_text())
AGGREGATION = parse_task(EXAMPLE).aggregation
assert AGGREGATION is not None
assert AGGREGATION.privacy is not None
PRIVACY = AGGREGATION.privacy


def said(text: str, name: str) -> Any:
    """The value of a key in the one block of JSON that begins with it."""
    (block,) = re.findall(rf'```json\n("{name}": .*?)```', text, re.DOTALL)
    return json.loads("{" + block + "}")[name]


def test_the_example_is_the_task_of_the_pages() -> None:
    check_budget(PRIVACY)
    assert said(ROUNDS, "aggregation") == EXAMPLE["aggregation"]
    assert said((ROOT / "README.md").read_text(), "aggregation") == EXAMPLE["aggregation"]


def test_the_numbers_are_those_of_the_accountant() -> None:
    told = said(ROUNDS, "privacy")
    asked = {name: told[name] for name in EXAMPLE["aggregation"]["privacy"]}
    assert asked == EXAMPLE["aggregation"]["privacy"]
    noisy = told["noisy_versions"]
    assert (told["epsilon"], told["next_epsilon"]) == (epsilon_of(PRIVACY, noisy), epsilon_of(PRIVACY, noisy + 1))
    assert "With these numbers 99 versions fit, and come to ε = 7.96." in ROUNDS
    assert round(epsilon_of(PRIVACY, 99), 2) == 7.96
    assert epsilon_of(PRIVACY, 100) > PRIVACY.epsilon_budget


def test_the_decision_states_the_grid_that_there_is() -> None:
    decision = page("decisions/0003-differential-privacy.md")
    assert "k is 35; the grid grows coarser with the cap (k is 15 at 2^40" in " ".join(decision.split())
    for cap, bits in ((2**20, 35), (2**40, 15)):
        plan = plan_of_changes(SumPlan.for_base(SPECS, octets(BASE), cap), PRIVACY)
        assert {tensor.scale.exponent for tensor in plan.tensors} == {bits}


def test_links_lead_somewhere() -> None:
    assert broken_links("rounds.md") == []
