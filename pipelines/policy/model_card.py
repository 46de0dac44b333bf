"""The model card of an exported policy: how to load it, how it was trained, and its results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from omegaconf import OmegaConf

from actors.policy.registry import family_of
from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.policy.evaluation_history import best_evaluation
from pipelines.policy.lineage import lineage_up_to
from pipelines.policy.metrics import EvaluationRow, read_evaluations
from pipelines.policy.resume import training_settings

CARD = """---
{base_line}library_name: diffusers
pipeline_tag: text-to-image
tags: [{tags}]
---

# {pipeline} LoRA trained for spatial relations

Trained online against {rewards} with {method}: policy version {version}{average} of {iterations} planned,
rank {rank}, each version from {prompts} prompts with {group} images each, {kept}.
Its base is {base}. It was trained with images of {width} × {height} pixels. Compare it with its base before you use it
at another size.

In this folder, or with its name on the Hugging Face hub instead of ".":

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
{lineage}
## Settings

The settings that decide what is learned. `settings.yaml` of the run has all settings.

```yaml
{settings}```
"""

LOAD = """pipeline = {pipeline}.from_pretrained({location}, torch_dtype=torch.{dtype})
pipeline.load_lora_weights(".")"""
LOAD_SCENES = (
    """from pipelines.scenes import CHECKPOINTS  # package spatialt2i

"""
    + LOAD
)
LOAD_MERGED = """pipeline = {pipeline}.from_pretrained(".", torch_dtype=torch.{dtype})"""

METRICS = {
    "correct relations, short prompts": "relation_accuracy_short",
    "correct relations, long prompts": "relation_accuracy_long",
    "objects present, short prompts": "object_accuracy_short",
    "objects present, long prompts": "object_accuracy_long",
    "reward, all prompts": "reward_mean",
    "reward, short prompts": "reward_mean_short",
    "reward, long prompts": "reward_mean_long",
}
"""Row of the table of results -> field of EvaluationRow."""


def model_card(settings: Settings, base: str, version: int, merged: bool) -> str:
    """Returns the card of policy version `version`, trained on the model at `base`, for the folder of its export.

    Its results are the held-out evaluations of the run up to that version. `merged`: the folder has a whole model. The
    card can be published: it names local models and files without their folders.
    """
    flux, policy, use_ema = settings.flux, settings.policy, settings.evaluation.use_ema
    top_k = policy.algorithm.top_k
    family = family_of(base)
    pipeline = family.pipeline_class.__name__
    is_scenes, is_local = flux.model == EMBEDDED, Path(base).exists()
    location = 'CHECKPOINTS / "flux"' if is_scenes else f'"path/to/{public_name(base)}"' if is_local else f'"{base}"'
    load = (LOAD_MERGED if merged else LOAD_SCENES if is_scenes else LOAD).format(
        pipeline=pipeline, location=location, dtype=flux.dtype
    )
    rows = [row for row in read_evaluations(run_paths(settings).evaluations) if row.iteration <= version]
    learned = training_settings(settings)
    tags = ["lora", "text-to-image", "grpo", *(["spatialscore"] if settings.trains_on("spatialscore") else [])]
    return CARD.format(
        base_line="" if is_local else f"base_model: {base}\n",
        base="the small FLUX of the scenes world" if is_scenes else public_name(base),
        pipeline=pipeline,
        version=version,
        rank=flux.lora_rank,
        rewards=describe_rewards(settings),
        tags=", ".join(tags),
        method="top-k GRPO" if top_k else "GRPO",
        average=" (moving average)" if use_ema else "",
        iterations=policy.iterations,
        prompts=policy.prompts_per_iteration,
        group=policy.group_size,
        kept=f"the best and worst {top_k} of a group trained on" if top_k else "all of them trained on",
        load=load,
        height=flux.height,
        width=flux.width,
        steps=settings.evaluation.denoise_steps,
        arguments=", ".join(f"{name}={value!r}" for name, value in family.pipeline_kwargs(flux).items()),
        length=flux.max_sequence_length,
        lineage=lineage_section(run_paths(settings).lineage, version),
        results=results_table(rows, use_ema, best_evaluation(rows, policy.evaluation.best_by)),
        settings=OmegaConf.to_yaml(OmegaConf.create({key: _public(value) for key, value in learned.items()})),
    )


def lineage_section(path: Path, version: int) -> str:
    """What a version started from, and what changed on the way to it, as Markdown; "" if nothing did."""
    rows = [
        replace(row, change=replace(row.change, old=_public(row.change.old), new=_public(row.change.new)))
        for row in lineage_up_to(path, version)
    ]
    if not rows:
        return ""
    lines = "\n".join(f"- {row}" for row in rows)
    return f"\n## Lineage\n\nThe run was not trained with one configuration from its base on:\n\n{lines}\n"


def public_name(location: str) -> str:
    """A model or file as others may know it: a local one by its name without its folders, any other as it is."""
    is_local = location.startswith(("/", "~", ".")) or Path(location).exists()
    return Path(location).name if is_local else location


def _public(value: object) -> object:
    return public_name(value) if isinstance(value, str) and "/" in value else value


def describe_rewards(settings: Settings) -> str:
    """Describes the rewards that have a weight, as a sum."""
    names = {
        "spatialscore": "SpatialScore",
        "rules": "the exact checker of scenes",
        "judge": f"the judge {settings.judge.model}",
        "detector": f"the detector {public_name(settings.detector.model)}",
    }
    terms, gates = list[str](), list[str]()
    for key, term in settings.used_rewards().items():
        name = names.get(term.kind_of(key), f"the reward {key}")
        if term.weight:
            terms.append(name if term.weight == 1 else f"{term.weight:g} × {name}")
        if term.at_least is not None:
            gates.append(f"{name} of at least {term.at_least:g}")
    total = " + ".join(terms) + (" (z-scores)" if settings.policy.algorithm.combine_rewards == "z_scores" else "")
    return f"{total}, if {' and '.join(gates)}" if gates else total


def results_table(rows: Sequence[EvaluationRow], exports_average: bool, best: EvaluationRow | None) -> str:
    """Returns the first (the base) and the last held-out evaluation as a Markdown table, without metrics that are NaN.

    A run always evaluates its averaged weights. If the export is not the average, the text says so. It also says if
    another version was better, which `best` is.
    """
    if not rows:
        return "No held-out evaluation was made during training."
    first, last = asdict(rows[0]), asdict(rows[-1])
    note = "" if exports_average else "; measured on the moving average, while the export is the last version itself"
    better = f" Version {best.iteration} was the best of them." if best and best is not rows[-1] else ""
    lines = [
        f"{last['images']} held-out prompts, one image each, the same noise for both{note}.{better}",
        "",
        f"| | version {first['iteration']} | version {last['iteration']} |",
        "|---|---|---|",
    ]
    for name, metric in METRICS.items():
        if not math.isnan(last[metric]):
            number = "{:+.2f}" if metric.startswith("reward") else "{:.1%}"
            lines.append(f"| {name} | {number.format(first[metric])} | {number.format(last[metric])} |")
    return "\n".join(lines)
