"""The ε that noisy versions come to: asked of dp-accounting, which is imported with the first question.

Knows numbers only. A version of a task with central privacy is one Gaussian mechanism of
sensitivity 1 and standard deviation z (the noise multiplier), seen from one participant. n of them, whoever
chooses the later ones by the earlier ones, are exactly one of standard deviation z / √n (Dong, Roth
and Su, "Gaussian Differential Privacy", arXiv 1905.02383, corollary 3.3), of which the library computes the
analytic ε (Balle and Wang, arXiv 1805.06530). No version is made of a random sample of the
participants, so nothing is claimed from sampling.
"""

from __future__ import annotations

import math

from learning.privacy import CentralPrivacy
from learning.refusals import InvalidTask, PrivacyNotAccounted

STEPS_PER_UNIT = 10**6
"""ε is rounded up to a millionth: what the library's last digits may differ in, on another machine, is below it."""
_SEARCHED_TO = 1e-9


def epsilon_of(privacy: CentralPrivacy, noisy_versions: int) -> float:
    """What so many versions come to, at `privacy.delta`. Raises PrivacyNotAccounted where the library is missing."""
    if not noisy_versions:
        return 0.0
    try:
        from dp_accounting import get_epsilon_gaussian
    except ImportError:
        raise PrivacyNotAccounted from None
    epsilon = float(get_epsilon_gaussian(privacy.noise_multiplier / math.sqrt(noisy_versions), privacy.delta))
    return math.ceil((epsilon + _SEARCHED_TO) * STEPS_PER_UNIT) / STEPS_PER_UNIT


def check_budget(privacy: CentralPrivacy) -> None:
    """Refuses a budget that not even one version fits. Raises InvalidTask, PrivacyNotAccounted."""
    first = epsilon_of(privacy, 1)
    if first > privacy.epsilon_budget:
        raise InvalidTask(
            field="aggregation.privacy.epsilon_budget",
            problem=f"is less than the ε of one version, {first:g} at δ = {privacy.delta:g}; raise it, or the "
            "noise_multiplier",
        )
