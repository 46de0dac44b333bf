"""report.html: one file without external references that shows what a run did."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pyarrow.compute as pc
import pyarrow.dataset as ds
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from actors.images import ImageError
from actors.json_files import object_or_none
from conf.flux import EMBEDDED
from conf.load import settings_yaml
from conf.settings import Settings
from pipelines.common.images import data_uri
from pipelines.common.paths import RunPaths
from pipelines.evaluation.cases import Result
from pipelines.evaluation.curves import JsonRow, training_curves
from pipelines.evaluation.gallery import build_gallery
from pipelines.evaluation.reward_terms import averaged, reward_terms
from pipelines.evaluation.tables import Row, TableName, Tables
from pipelines.evaluation.what_changed import WhatChanged
from pipelines.policy.lineage import lineage_up_to
from pipelines.policy.metrics import EvaluationRow, IterationRow, read_rows
from pipelines.preferences.roles.base import PairKind

SAMPLE_PAIRS = 2
"""Preference pairs of each kind that the report shows."""

BENCHMARKS = ("<!-- benchmarks -->", "<!-- end of benchmarks -->")
"""The comments around the section of the benchmarks, which is written after the page."""


@dataclass(frozen=True)
class Headline:
    """One measure before and after training."""

    title: str
    note: str
    row: Row
    is_share: bool


@dataclass(frozen=True)
class SamplePair:
    """A preference pair of stage 1."""

    kind: str
    prompt: str
    winner: str  # data URI
    loser: str  # data URI
    changes: tuple[str, ...]


def render_report(
    paths: RunPaths,
    settings: Settings,
    results: Sequence[Result],
    tables: Tables,
    seconds: float,
    version: int | None = None,
    changes: WhatChanged | None = None,
) -> str:
    """Returns the HTML page.

    It also shows the training curves, preference pairs and timings of the earlier stages, as far as `paths` has them.
    `seconds` is the duration of the evaluation, `version` that of the policy if it is known, `changes` what the trained
    reward does not see.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    timings = object_or_none(str(paths.timings)) or {}
    training = read_rows(paths.metrics, IterationRow)
    return environment.get_template("report.html").render(
        settings=settings,
        version=version,
        embedded=settings.flux.model == EMBEDDED,
        yaml=settings_yaml(settings),
        num_prompts=len({result.case.prompt.text for result in results}),
        num_images=len(results),
        tables=tables,
        headlines=_headlines(tables),
        changes=changes,
        terms=reward_terms(training, {name: term.weight for name, term in settings.used_rewards().items()}),
        terms_of=averaged(training),
        figures=training_curves(training, read_rows(paths.evaluations, EvaluationRow)),
        lineage=[str(row) for row in lineage_up_to(paths.lineage, version)],
        panels=build_gallery(results, paths),
        accuracies=_accuracies(object_or_none(str(paths.reward_evaluation))),
        manifest=object_or_none(str(paths.preferences_manifest)),
        pairs=_sample_pairs(paths.preferences),
        stages={**timings.get("seconds", {}), "4 · Evaluation, up to this page": round(seconds, 1)},
        machine=_machine(),
        benchmarks=Markup(paths.benchmark_section.read_text()) if paths.benchmark_section.is_file() else "",
    )


def replace_benchmarks(page: str, section: str) -> str:
    """Returns a page of `render_report` with another section of benchmarks; unchanged if it has no place for one."""
    start, end = (page.find(comment) for comment in BENCHMARKS)
    if not 0 <= start < end:
        return page
    return page[: start + len(BENCHMARKS[0])] + section + page[end:]


def _headlines(tables: Tables) -> list[Headline]:
    """Returns the main measures; [] without the exact checker."""
    wanted: tuple[tuple[TableName, str, str, str], ...] = (
        ("relations", "all", "Relations correct", "share of all spatial relations in all prompts"),
        ("relations", "long prompts", "… in long prompts", "prompts with two relations or more"),
        (
            "perfect",
            "all",
            "Images fully correct",
            "every object and every relation of the prompt, and no other object",
        ),
        ("objects", "all", "Objects present", "shown cleanly, exactly once"),
        ("scores", "all", "SpatialScore", "mean score of the reward model"),
    )
    found = [
        Headline(title, note, row, table != "scores")
        for table, name, title, note in wanted
        if (row := tables.find(table, name))
    ]
    return found if len(found) > 1 else []


def _accuracies(evaluation: JsonRow | None) -> dict[str, JsonRow]:
    """Returns the accuracies of SpatialScore on held-out pairs, by kind of pair."""
    report = evaluation["models"][0]["accuracies"] if evaluation else {}
    titles = {
        "all pairs": "overall",
        "one relation changed": "one_change",
        "two or three relations changed": "more_changes",
        "an object missing, doubled or recoloured": "corrupted",
        "images generated by the base model": "generated",
        "winner and loser exchanged, with the changed prompt": "perturbed_prompt",
    }
    return {title: report[key] for title, key in titles.items() if report.get(key)}


def _sample_pairs(folder: Path) -> list[SamplePair]:
    """Returns the first SAMPLE_PAIRS pairs of each kind."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        return []
    rows = ds.dataset(files, format="parquet")
    columns = ["kind", "prompt", "image_w", "image_l", "perturbations"]
    tables = [rows.head(SAMPLE_PAIRS, columns=columns, filter=pc.field("kind") == kind) for kind in get_args(PairKind)]
    pairs = (_sample_pair(row) for table in tables for row in table.to_pylist())
    return [pair for pair in pairs if pair]


def _sample_pair(row: JsonRow) -> SamplePair | None:
    """The pair as the report shows it; None if an image cannot be read."""
    changes = tuple(
        f"{change['kind']}: {change['from']} → {change['to'] or 'nothing'}" for change in row["perturbations"]
    )
    try:
        winner, loser = data_uri(row["image_w"]["bytes"]), data_uri(row["image_l"]["bytes"])
    except ImageError:
        return None
    return SamplePair(row["kind"], row["prompt"], winner, loser, changes)


def _machine() -> str:
    """Describes the machine of the driver."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{os.cpu_count()} CPUs ({model}), {platform.system()}, Python {platform.python_version()}"
