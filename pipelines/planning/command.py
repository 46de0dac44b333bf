"""`spatialt2i plan`."""

from __future__ import annotations

import dataclasses
import json

from conf import Settings, UserError
from pipelines.planning.plan import Plan, make_plan, settings_lines
from pipelines.planning.report import report


def plan(settings: Settings) -> None:
    """Prints the plan of a preset. Raises UserError if it cannot be planned, or if no division fits into memory."""
    made = make_plan(settings)
    if settings.plan.output == "json":
        print(json.dumps(dataclasses.asdict(made), indent=2))
    else:
        print(report(made))
    if made.best.excess_gib:
        raise UserError(_does_not_fit(made))


def _does_not_fit(plan: Plan) -> str:
    """By how much the division that lacks the least does not fit, and what to change."""
    best = plan.best
    fullest = max(best.memory, key=lambda memory: memory.excess_gib)
    largest = max(fullest.parts, key=lambda part: part.gib)
    tried = " ".join(settings_lines(best.overrides))
    return (
        f"{plan.preset} does not fit {plan.gpus} x {plan.gpu.name}: a GPU with the roles {', '.join(fullest.roles)} "
        f"needs {fullest.gib:.1f} GiB and has {fullest.usable_gib:.1f}, even with {tried}. The largest part is "
        f"{largest.name}, {largest.gib:.1f} GiB. Use larger GPUs, more GPUs (then no two roles share one), "
        "flux.text_encoders_on_cpu=true, policy.learner.zero_stage=3, or a smaller model"
    )
