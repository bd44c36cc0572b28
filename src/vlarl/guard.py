"""Has training made the policy worse than it was at step 0? A sequential test on paired outcomes.

Every evaluation tries the same episodes as step 0, so its evidence lies in the discordant pairs: ``gained``
episodes succeed now and failed then, ``lost`` ones the other way round. If the policy is no worse, a discordant
pair is a loss with probability at most 1/2, whatever the difficulty of the episodes.

One evaluation gives an e-value, the likelihood of its pairs under loss probabilities above 1/2 (all equally
likely beforehand: a mixture, as in the mixture SPRT) over that under 1/2. Its mean is at most 1 where nothing is
wrong. Evaluations share their episodes and so are not independent: their e-values may not be multiplied. But a
weighted sum with weights that sum to 1 has mean at most 1 under any dependence, and it never falls, so by
Markov's inequality it ever reaches 1 / a with probability at most a, however long the run goes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_LARGEST = 1e300  # an e-value above it is cut, which keeps the test valid and the number a float


@dataclass(frozen=True)
class Evidence:
    """What the evaluations since step 0, or since the last alarm, say together."""

    total: float = 0.0
    evaluations: int = 0

    def after(self, gained: int, lost: int) -> Evidence:
        """With one more evaluation: the j-th has weight 1 / (j (j + 1)); these sum to 1."""
        number = self.evaluations + 1
        return Evidence(self.total + e_value(gained, lost) / (number * (number + 1)), number)

    def alarms(self, false_alarm_rate: float, *, gained: int, lost: int) -> bool:
        """Whether to act now, by the evidence with the newest evaluation, which ``gained`` and ``lost`` episodes.

        Never after an evaluation that did not lose more than it gained: the sum remembers what may have been made good
        since. That makes alarms rarer, so that the bound on false ones holds.
        """
        return lost > gained and self.total >= 1.0 / false_alarm_rate


def finding(since: int) -> str:
    """What an alarm says; ``since``: iteration of the alarm before it, 0 where there was none."""
    when = f"the alarm after iteration {since}" if since else "step 0"
    return f"evaluations since {when} together show the policy below the step-0 baseline beyond noise"


def e_value(gained: int, lost: int) -> float:
    """Evidence of one evaluation that the policy is worse: mean at most 1 if it is not.

    The integral of 2 (2 q)^lost (2 (1 - q))^gained over q from 1/2 to 1, in closed form:
    sum of C(n + 1, k) for k = 0 .. lost, over (n + 1) C(n, lost), with n = gained + lost.
    """
    pairs = gained + lost
    term = tail = 1
    for k in range(lost):
        term = term * (pairs + 1 - k) // (k + 1)
        tail += term
    scale = (pairs + 1) * math.comb(pairs, lost)
    return _LARGEST if tail > scale * int(_LARGEST) else tail / scale
