"""report.html: one file that needs nothing else, for whoever wants to see what a run did."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from omegaconf import OmegaConf

from conf.settings import Settings
from pipelines.common.charts import Series, line_chart
from pipelines.common.images import data_uri
from pipelines.evaluation.cases import Result
from pipelines.evaluation.gallery import build_gallery
from pipelines.evaluation.tables import Row, Tables

SAMPLE_PAIRS = 2  # of each kind


@dataclass(frozen=True)
class Headline:
    """One number before and after."""

    title: str
    note: str
    row: Row


@dataclass(frozen=True)
class Figure:
    """A chart with its caption."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class SamplePair:
    """A preference pair as it was saved."""

    kind: str
    prompt: str
    winner: str  # data URI
    loser: str  # data URI
    changes: tuple[str, ...]


def render_report(run_dir: Path, settings: Settings, results: Sequence[Result], tables: Tables, seconds: float) -> str:
    """The page. Besides what it is given it reads what the stages before have left in `run_dir`, if they have."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    timings = _read_json(run_dir / "timings.json") or {}
    return environment.get_template("report.html").render(
        settings=settings,
        resolved=OmegaConf.to_yaml(OmegaConf.structured(settings)),
        prompts=len({result.case.prompt.text for result in results}),
        pictures=len(results),
        tables=tables,
        headlines=_headlines(tables),
        figures=_figures(run_dir / "policy"),
        walls=build_gallery(results, run_dir / "evaluation"),
        accuracies=_accuracies(_read_json(run_dir / "reward" / "evaluation.json")),
        preferences=_read_json(run_dir / "preferences" / "_manifest.json"),
        pairs=_sample_pairs(run_dir / "preferences"),
        stages={**timings.get("seconds", {}), "Evaluation, until this page": round(seconds, 1)},
        machine=_machine(),
    )


def _headlines(tables: Tables) -> list[Headline]:
    wanted = (
        ("relations", "all", "Relations right", "every relation of every prompt"),
        ("relations", "long prompts", "… in long prompts", "two or three relations a prompt"),
        ("perfect", "all", "Pictures all right", "every object and every relation"),
        ("objects", "all", "Objects present", "drawn cleanly, exactly once"),
        ("scores", "all", "SpatialScore", "mean, what training maximised"),
    )
    found = [Headline(title, note, row) for table, name, title, note in wanted if (row := tables.find(table, name))]
    return found if len(found) > 1 else []


def _figures(folder: Path) -> list[Figure]:
    """Held-out accuracy and training reward over training time, of a run that has left its logs."""
    figures = []
    held_out, training = _read_lines(folder / "evaluation.jsonl"), _read_lines(folder / "metrics.jsonl")
    lines = (
        ("short prompts", "short", "relation_accuracy_short"),
        ("long prompts", "long", "relation_accuracy_long"),
        ("objects", "objects", "object_accuracy_long"),
    )
    series = [Series(name, style, _curve(held_out, key)) for name, style, key in lines]
    series = [line for line in series if line.points]
    if series:
        svg = line_chart("Held-out accuracy over training time", series, "minutes of training", percent=True)
        caption = "Share of relations drawn right on held-out prompts, and of objects present in the long ones."
        figures.append(Figure(Markup(svg), caption))
    lines = (("training", "policy", training, "reward_mean"), ("held out", "short", held_out, "reward_mean"))
    series = [Series(name, style, _curve(rows, key)) for name, style, rows, key in lines]
    series = [line for line in series if line.points]
    if series:
        svg = line_chart("SpatialScore over training time", series, "minutes of training", percent=False)
        caption = "Mean SpatialScore of the sampled training images (with noise) and of held-out images (without)."
        figures.append(Figure(Markup(svg), caption))
    return figures


def _accuracies(evaluation: dict[str, Any] | None) -> dict[str, dict[str, float]]:
    """SpatialScore's held-out pair accuracies that were measured, by what was asked."""
    report = evaluation["models"][0]["accuracies"] if evaluation else {}
    named = {
        "all pairs": "overall",
        "one changed relation": "one_change",
        "two or three changed relations": "more_changes",
        "an object missing, doubled or recoloured": "exploit",
        "drawn by the base model": "generated",
        "pictures exchanged, under the changed prompt": "perturbed_prompt",
    }
    return {title: report[key] for title, key in named.items() if report.get(key)}


def _curve(rows: Sequence[dict[str, Any]], key: str) -> tuple[tuple[float, float], ...]:
    return tuple((row["training_seconds"] / 60, row[key]) for row in rows if row.get(key) is not None)


def _sample_pairs(folder: Path) -> list[SamplePair]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        return []
    rows = ds.dataset(files, format="parquet")
    samples = []
    for kind in ("perturbed", "exploit", "generated"):
        columns = ["kind", "prompt", "image_w", "image_l", "perturbations"]
        table = rows.head(SAMPLE_PAIRS, columns=columns, filter=pc.field("kind") == kind)
        samples += [_sample_pair(row) for row in table.to_pylist()]
    return samples


def _sample_pair(row: dict[str, Any]) -> SamplePair:
    changes = tuple(
        f"{change['kind']}: {change['from']} → {change['to'] or 'nothing'}" for change in row["perturbations"]
    )
    winner, loser = data_uri(row["image_w"]["bytes"]), data_uri(row["image_l"]["bytes"])
    return SamplePair(row["kind"], row["prompt"], winner, loser, changes)


def _machine() -> str:
    """The machine of the driver, in words."""
    model = platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"{os.cpu_count()} CPUs ({model}), {platform.system()}, Python {platform.python_version()}"


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
