"""An evaluation whose images come from the renderer, so that its results are known without training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

from actors.files import write_file
from conf import Settings, load
from pipelines.common.images import encode_png
from pipelines.common.paths import RunPaths, run_paths
from pipelines.evaluation.cases import MODELS, Case, Model, Result, draw_cases
from pipelines.evaluation.image_tasks import read_images
from pipelines.evaluation.images import image_file, inspect_image
from pipelines.evaluation.measuring import compare
from pipelines.evaluation.what_changed import WhatChanged
from pipelines.policy.measures import measure_images
from pipelines.policy.metrics import EvaluationRow, IterationRow
from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.roles.base import RowSpec
from pipelines.preferences.roles.scenes import SceneGenerator, ScenePerturber, SceneReviewer, SceneWriter
from pipelines.scenes import grammar, render

ERROR_RATES: Mapping[Model, float] = {"base": 0.6, "policy": 0.15}
"""Share of images that show a perturbed prompt."""


class EvaluatedRun:
    """Settings, paths and results of an evaluation of 80 cases."""

    def __init__(self, run_dir: Path) -> None:
        """Renders all images into `run_dir`. The base is often wrong, the policy seldom."""
        overrides = [f"run_dir={run_dir}", "evaluation.short_prompts=20", "evaluation.long_prompts=20"]
        self.settings: Settings = load("scenes", overrides)
        self.paths: RunPaths = run_paths(self.settings)
        rng = np.random.default_rng(0)
        self.results = [self._result(case, rng) for case in draw_cases(self.settings)]

    def _result(self, case: Case, rng: np.random.Generator) -> Result:
        assessments = []
        for model in MODELS:
            scene = grammar.parse(case.prompt.text)
            if rng.random() < ERROR_RATES[model]:
                scene, _ = grammar.perturb(scene, 1, rng)
            image = render.render(render.lay_out(scene, rng), rng)
            write_file(str(image_file(self.paths, model, case)), encode_png(image))
            assessments.append(inspect_image(image, case.prompt, float(rng.normal())))
        return Result(case, *assessments)

    def exchanged(self) -> list[Result]:
        """The results with base and policy exchanged: a policy that training made worse."""
        return [replace(result, base=result.policy, policy=result.base) for result in self.results]


def write_logs(paths: RunPaths) -> None:
    """Writes the files of the earlier stages that the report shows."""
    training = [
        {"training_seconds": 3.0 * i, "reward_mean": i / 10, "iteration": i, "rewards": _terms(float(i))}
        for i in range(1, 21)
    ]
    _write_json(paths.metrics, *(_complete(IterationRow, row) for row in training))
    _write_json(paths.evaluations, *map(_evaluation_row, range(6)))
    accuracy = {"pairs": 600, "right": 573, "accuracy": 0.955, "low": 0.935, "high": 0.969}
    _write_json(paths.reward_evaluation, {"models": [{"accuracies": {"overall": accuracy, "generated": None}}]})
    _write_json(paths.timings, {"machine": "m", "seconds": {"Preference pairs (Ray Data)": 71.4}})
    prompts = ScenePerturber().perturb(SceneWriter().write([RowSpec(i, "perturbed", i) for i in range(6)]))
    pairs = SceneGenerator().generate(prompts)
    table = to_table(pairs, SceneReviewer().review(pairs), ["train"] * 6, "x")
    paths.preferences.mkdir()
    pq.write_table(table, paths.preferences / "train-00000.parquet")
    counts = {"pairs": 6, "groups": 6, "by_kind": {"perturbed": 6}, "by_split": {"train": 6}}
    _write_json(paths.preferences_manifest, counts)


def _terms(mean: float) -> dict[str, dict[str, float | None]]:
    """Two terms of the training reward; the one that is equal within groups has no correlations."""
    equal = {"mean": 1.0, "std": 0.0, "correlation_total": None, "correlation_spatialscore": None}
    score = {"mean": mean, "std": 0.5, "correlation_total": 0.25, "correlation_mine": None}
    return {"spatialscore": score, "mine": equal}


def _evaluation_row(i: int) -> dict[str, Any]:
    row = {
        "iteration": 2 * i,
        "training_seconds": 6.0 * i,
        "relation_accuracy_short": 0.5 + i / 20,
        "relation_accuracy_long": 0.4 + i / 20,
        "object_accuracy_long": 0.9,
        "reward_mean": None if i == 0 else i / 10,
        "measures": {"sharpness": {"mean": 30.0 - i, "spread": 2.0}, "mine": {"mean": None, "spread": None}},
    }
    return _complete(EvaluationRow, row)


def _complete(record: type[IterationRow | EvaluationRow], row: dict[str, Any]) -> dict[str, Any]:
    """The row with 0 in all fields that it lacks."""
    return {field.name: 0 for field in fields(record) if field.default_factory is MISSING} | row


def _write_json(path: Path, *rows: Mapping[str, Any]) -> None:
    write_file(str(path), "\n".join(map(json.dumps, rows)).encode())


def blurred_policy(run: EvaluatedRun, reward: float) -> WhatChanged:
    """What else changed if the policy's images were those of the base, blurred, with `reward` added to their scores."""
    results = [
        replace(each, policy=replace(each.base, score=each.base.score + reward), base=each.base) for each in run.results
    ]
    sharp = np.stack([read_images([str(image_file(run.paths, "base", each.case))])[0] for each in results])
    soft = np.stack([np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5))) for image in sharp])
    changes = compare(results, {"base": measure_images(sharp), "policy": measure_images(soft)}, run.settings)
    assert changes is not None
    return changes
