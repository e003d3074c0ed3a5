"""The ε of some numbers, against what is known of them without the library."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest

from learning.privacy import CentralPrivacy
from learning.refusals import InvalidTask, PrivacyNotAccounted
from privacy.accountant import check_budget, epsilon_of


def asked(*, z: float, delta: float = 1e-5, budget: float = 8.0, norm: float = 1.0) -> CentralPrivacy:
    return CentralPrivacy(clipping_norm=norm, noise_multiplier=z, delta=delta, epsilon_budget=budget)


def phi(x: float) -> float:
    """The standard normal distribution function."""
    return math.erfc(-x / math.sqrt(2)) / 2


def delta_of(epsilon: float, sigma: float) -> float:
    """Balle and Wang, arXiv 1805.06530, equation 6, for sensitivity 1."""
    return phi(1 / (2 * sigma) - epsilon * sigma) - math.exp(epsilon) * phi(-1 / (2 * sigma) - epsilon * sigma)


@pytest.mark.parametrize(
    ("z", "versions"), [(0.5, 1), (1.0, 1), (1.0, 4), (2.0, 1), (2.0, 16), (4.0, 100), (10.0, 1000), (30.0, 10_000)]
)
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-7])
def test_it_is_what_the_analytic_gaussian_mechanism_says_of_z_over_root_n(
    z: float, versions: int, delta: float
) -> None:
    epsilon, sigma = epsilon_of(asked(z=z, delta=delta), versions), z / math.sqrt(versions)
    # Never below what holds, and not by a hundred-thousandth above it.
    assert delta_of(epsilon, sigma) <= delta * (1 + 1e-9)
    assert delta_of(epsilon - 1e-5, sigma) > delta


def test_it_is_what_the_papers_say() -> None:
    assert epsilon_of(asked(z=1.0), 1) == 4.377179  # the analytic mechanism; the classical one needs 4.84
    assert epsilon_of(asked(z=1.0), 1) == epsilon_of(asked(z=10.0), 100)
    # A zCDP of n / 2z² comes to at most ρ + 2 √(ρ · ln 1/δ) (Bun and Steinke, arXiv 1605.02065).
    rho = 50 / (2 * 3.0**2)
    assert epsilon_of(asked(z=3.0), 50) < rho + 2 * math.sqrt(rho * math.log(1e5))


def test_nothing_costs_nothing_and_more_costs_more() -> None:
    costs = [epsilon_of(asked(z=1.2), versions) for versions in range(30)]
    assert costs[0] == 0.0
    assert all(before < after for before, after in itertools.pairwise(costs))
    assert costs[9] < 9 * costs[1]


def test_it_is_the_same_in_any_unit_of_length() -> None:
    assert epsilon_of(asked(z=1.2, norm=1e-3), 7) == epsilon_of(asked(z=1.2, norm=1e9), 7)


@pytest.mark.parametrize(("z", "versions", "delta"), [(0.01, 10**6, 1e-15), (1e4, 1, 1e-15), (1e4, 1, 0.9)])
def test_the_ends_of_the_range_have_a_number_too(z: float, versions: int, delta: float) -> None:
    assert 0 <= epsilon_of(asked(z=z, delta=delta), versions) < math.inf


def test_a_budget_below_one_version_is_refused_with_both_numbers() -> None:
    check_budget(asked(z=1.0, budget=4.38))
    with pytest.raises(InvalidTask, match=r"epsilon_budget: is less than the ε of one version, 4\.37718 at δ = 1e-05"):
        check_budget(asked(z=1.0, budget=4.37))


def test_without_the_library_it_says_which_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(PrivacyNotAccounted, match=r"disco-server\[privacy\]"):
        epsilon_of(asked(z=1.0), 1)
    assert epsilon_of(asked(z=1.0), 0) == 0.0


def test_nobody_imports_it_who_does_not_ask() -> None:
    program = (
        "import sys, privacy.accountant, services.aggregator.__main__, services.task_service.__main__;"
        "sys.exit(sum(name.split('.')[0] in ('scipy', 'dp_accounting') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
