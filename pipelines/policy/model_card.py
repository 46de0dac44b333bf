"""The model card of an exported policy: how to load it, how it was trained, what it achieved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from omegaconf import OmegaConf

from actors.policy.registry import family_of
from conf.settings import Settings
from pipelines.policy.checkpoint import training_settings
from pipelines.policy.metrics import EvaluationRow, read_evaluations

CARD = """---
base_model: {base}
library_name: diffusers
pipeline_tag: text-to-image
tags: [{tags}]
---

# {pipeline} LoRA trained for spatial relations

Trained online against {rewards} with {method}: policy version {version}{average} of {iterations} planned,
rank {rank}, each version from {prompts} prompts with {group} images each, {kept}.

```python
import torch
from diffusers import {pipeline}

{load}
image = pipeline(
    "a red circle left of a blue square",
    height={height},
    width={width},
    num_inference_steps={steps},
    {arguments},
    max_sequence_length={length},
    generator=torch.Generator().manual_seed(0),
).images[0]
image.save("image.png")
```

## Results

{results}

## Settings

What decided the training's arithmetic; all else is in `settings.yaml` of the run.

```yaml
{settings}```
"""

LOAD = """pipeline = {pipeline}.from_pretrained("{base}", torch_dtype=torch.{dtype})
pipeline.load_lora_weights("{directory}")"""
LOAD_MERGED = """pipeline = {pipeline}.from_pretrained("{directory}", torch_dtype=torch.{dtype})"""

MEASURES = {
    "relations right, short prompts": "relation_accuracy_short",
    "relations right, long prompts": "relation_accuracy_long",
    "objects present, short prompts": "object_accuracy_short",
    "objects present, long prompts": "object_accuracy_long",
    "reward, all prompts": "reward_mean",
    "reward, short prompts": "reward_mean_short",
    "reward, long prompts": "reward_mean_long",
}


def model_card(settings: Settings, base: str, version: int, directory: Path, merged: bool) -> str:
    """The card of version `version`, trained on the model at `base` and exported to `directory`.

    Its results are the run's held-out evaluations so far, up to that version. `merged`: the directory is a whole model.
    """
    flux, policy, mix = settings.flux, settings.policy, settings.rewards
    family = family_of(base)
    pipeline = family.pipeline_class.__name__
    place = {"pipeline": pipeline, "base": base, "dtype": flux.dtype, "directory": directory.absolute()}
    rows = [row for row in read_evaluations(Path(settings.run_dir, "policy")) if row.iteration <= version]
    return CARD.format(
        base=base, pipeline=pipeline, version=version, rank=flux.lora_rank, rewards=rewards_of(settings),
        tags=", ".join(("lora", "text-to-image", "grpo", *(["spatialscore"] if mix.spatialscore else []))),
        method="top-k GRPO" if policy.algorithm.top_k else "GRPO",
        average=" (moving average)" if settings.evaluation.use_ema else "", iterations=policy.iterations,
        prompts=policy.prompts_per_iteration, group=policy.group_size,
        kept=f"the best and worst {policy.algorithm.top_k} of a group trained on" if policy.algorithm.top_k else "all of them trained on",
        load=(LOAD_MERGED if merged else LOAD).format(**place),
        height=flux.height, width=flux.width, steps=settings.evaluation.denoise_steps,
        arguments=", ".join(f"{name}={value}" for name, value in family.pipeline_kwargs(flux).items()),
        length=flux.max_sequence_length, results=results_table(rows, settings.evaluation.use_ema),
        settings=OmegaConf.to_yaml(OmegaConf.create(training_settings(settings))),
    )  # fmt: skip


def rewards_of(settings: Settings) -> str:
    """The rewards that have a weight, as the sum that a policy is trained on."""
    names = {
        "spatialscore": "SpatialScore",
        "rules": "the exact checker of scenes",
        "judge": f"the judge {settings.judge.model}",
        "detector": f"the detector {settings.detector.model}",
    }
    weights = {names[key]: weight for key, weight in asdict(settings.rewards).items() if weight}
    return " + ".join(name if weight == 1 else f"{weight:g} × {name}" for name, weight in weights.items())


def results_table(rows: Sequence[EvaluationRow], average_exported: bool) -> str:
    """The first (the base) and the last of some held-out evaluations as Markdown, measures without numbers left out.

    A run always measures its moving average; unless `average_exported`, the text says that the export is another one.
    """
    if not rows:
        return "No held-out evaluation was made during training."
    first, last = rows[0], rows[-1]
    note = "" if average_exported else "; measured on the moving average, while the export is the last version itself"
    lines = [
        f"{last.images} held-out prompts, one picture each, the same noise for both{note}.",
        "",
        f"| | version {first.iteration} | version {last.iteration} |",
        "|---|---|---|",
    ]
    for name, measure in MEASURES.items():
        before, after = getattr(first, measure), getattr(last, measure)
        if not math.isnan(after):
            shown = "{:+.2f}" if measure.startswith("score") else "{:.1%}"
            lines.append(f"| {name} | {shown.format(before)} | {shown.format(after)} |")
    return "\n".join(lines)
