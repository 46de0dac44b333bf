"""What else changed: what the trained reward does not see of the evaluation's images, base against tuned policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.evaluation.cases import Model
from pipelines.evaluation.tables import Estimate, Row, bootstrap
from pipelines.policy.measures import summarize
from pipelines.policy.watch import MAX_FALL, fall

Values = Mapping[Model, np.ndarray]
"""Values of one measure before and after training, each [N], of the same prompts and noise; NaN: not measured."""


@dataclass(frozen=True)
class ChangedMeasure:
    """One measure before and after training."""

    row: Row
    fall: float
    """By how many standard deviations of the base's images the mean fell; negative if it rose."""
    verdict: str


@dataclass(frozen=True)
class WhatChanged:
    """Every measure that the trained reward does not see, and the verdict of the watch."""

    reward: Row
    """The trained reward: the weighted sum of the rewards that train."""
    measures: tuple[ChangedMeasure, ...]
    unmeasured: tuple[str, ...] = ()
    """Measures without a value of both models, such as a reward that could not score the images."""

    @property
    def reward_rose(self) -> bool:
        """Whether the trained reward rose, by the rule of the watch."""
        return self.reward.difference.value > 0

    @property
    def verdict(self) -> str:
        """One sentence for people."""
        names = ", ".join(each.row.name for each in self.measures if each.fall > MAX_FALL)
        if not self.reward_rose:
            return "The trained reward did not rise."
        if names:
            return f"The trained reward rose while this fell: {names}. The policy may exploit its reward."
        return f"The trained reward rose, and no measure fell by more than {MAX_FALL:g} standard deviations."


def what_changed(
    reward: Values, measures: Mapping[str, Values], prompts: Mapping[str, Sequence[str]], seed: int
) -> WhatChanged | None:
    """Compares each measure with its paired 95 % interval over prompts; None if the reward is not known.

    `prompts`: measure (and "reward") -> the prompt of each value, since whole prompts are drawn with replacement.
    `seed`: of the bootstrap.
    """
    trained = _row("trained reward", reward, prompts["reward"], seed)
    rows = {name: _row(name.replace("_", " "), values, prompts[name], seed) for name, values in measures.items()}
    if trained is None:
        return None
    known = {name: (row, _fall(measures[name])) for name, row in rows.items() if row}
    changed = [ChangedMeasure(row, far, _verdict(row.difference, far)) for row, far in known.values()]
    return WhatChanged(trained, tuple(changed), tuple(name for name, row in rows.items() if row is None))


def _fall(values: Values) -> float:
    known = np.isfinite(values["base"]) & np.isfinite(values["policy"])
    return fall(summarize(values["base"][known]), summarize(values["policy"][known]))


def _verdict(difference: Estimate, far: float) -> str:
    if difference.high < 0:
        return f"fell by more than {MAX_FALL:g} std" if far > MAX_FALL else "fell"
    return "rose" if difference.low > 0 else "no clear change"


def _row(name: str, values: Values, prompts: Sequence[str], seed: int) -> Row | None:
    """Means with intervals over prompts; None if no pair of images has both values."""
    known = np.isfinite(values["base"]) & np.isfinite(values["policy"])
    if not known.any():
        return None
    _, group = np.unique(np.asarray(prompts)[known], return_inverse=True)
    counts = np.bincount(group).astype(float)
    base, policy = (np.bincount(group, weights=values[model][known]) for model in ("base", "policy"))
    sides = (bootstrap(side, counts, seed) for side in (base, policy, policy - base))
    return Row(name, int(known.sum()), *sides)
