"""`spatialt2i preferences report`: what a run's pairs consist of, drawn, as one file that needs nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from actors.files import write_file
from conf.settings import Settings
from pipelines.common.charts import Bar, bar_chart
from pipelines.common.images import data_uri
from pipelines.preferences.dataset.publish import review_of, rows_of
from pipelines.preferences.dataset.statistics import PAPER_RELATIONS, PAPER_SCENES, WORD_BIN, Statistics
from pipelines.preferences.review.pairs import pairs_folder

SAMPLES = 3  # pairs shown of each kind
SHOWN = 20  # values of a chart that has many
PAPER_PAIRS = sum(PAPER_RELATIONS.values())


@dataclass(frozen=True)
class Figure:
    """A chart with its caption."""

    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Sample:
    """A pair as it is in the set: the first ones of their kind, none picked by hand."""

    kind: str
    prompt: str
    winner: str  # data URI
    loser: str  # data URI
    changes: tuple[str, ...]


def report(settings: Settings) -> Path:
    """Writes <run_dir>/preferences_report.html. Raises FileNotFoundError where there are no pairs."""
    reviews, overview = review_of(settings)
    counts, samples = Statistics(), []
    for row in rows_of(pairs_folder(settings)):
        review = reviews.get(row["pair_id"])
        counts.add({**row, "review": vars(review)} if review else row)
        if counts.kinds[row["kind"]] <= SAMPLES:
            samples.append(_sample(row))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    html = environment.get_template("report.html").render(
        settings=settings, counts=counts, overview=overview, figures=_figures(counts, _painted(pairs_folder(settings))),
        samples=sorted(samples, key=lambda sample: sample.kind),
    )  # fmt: skip
    path = Path(settings.run_dir).absolute() / "preferences_report.html"
    write_file(str(path), html.encode())
    return path


def _figures(counts: Statistics, made: int) -> list[Figure]:
    """`made`: pairs that the build painted, 0 if it does not say."""
    in_paper = "The tick across a bar is the paper's share."
    words = Counter({f"{low}–{low + WORD_BIN - 1}": counts.words[low] for low in sorted(counts.words)})
    relations = dict(sorted(counts.relations.items()))
    rates = [Bar(name, _accepted(counts, name)) for name in sorted(counts.generators)]
    if made:
        rates.append(Bar("by the build's check", counts.pairs / made))
    return [
        _figure("Scenes", dict(counts.scenes.most_common(SHOWN)), counts.pairs, in_paper, PAPER_SCENES),
        _figure("Relations of a prompt", relations, counts.pairs, in_paper, PAPER_RELATIONS),
        _figure("Words of a prompt", words, counts.pairs, "The paper's mode is about 58 words, its range 35 to 100."),
        _figure("Relations, by their words", dict(counts.phrases.most_common(SHOWN)), counts.phrases.total(), ""),
        _figure("Perturbations", dict(counts.perturbations.most_common(SHOWN)), counts.perturbations.total(), ""),
        _figure("Changed relations", dict(sorted(counts.changed.items())), counts.pairs, "0: the prompt is unchanged."),
        Figure(
            "Accept rates", Markup(bar_chart("Accept rates", rates)),
            "By generator: of the pairs in the set. By the build's check: of all pairs that were painted.",
        ),
    ]  # fmt: skip


def _figure(
    title: str, counts: Mapping[Any, int], total: int, caption: str, paper: Mapping[Any, int] | None = None
) -> Figure:
    """Shares of `total`; `paper` holds the paper's counts of the same values."""
    theirs = paper or {}
    bars = [
        Bar(str(name), count / max(total, 1), theirs[name] / PAPER_PAIRS if name in theirs else None)
        for name, count in counts.items()
    ]
    return Figure(title, Markup(bar_chart(title, bars)), caption)


def _painted(folder: Path) -> int:
    manifest = folder / "_manifest.json"
    told = json.loads(manifest.read_text()) if manifest.exists() else {}
    return told["pairs"] + told["rejected"] if "rejected" in told else 0


def _accepted(counts: Statistics, generator: str) -> float:
    return counts.by_generator[generator, "accepted"] / counts.generators[generator]


def _sample(row: Mapping[str, Any]) -> Sample:
    changes = tuple(f"{one['kind']}: {one['from']} → {one['to'] or 'nothing'}" for one in row["perturbations"])
    winner, loser = (data_uri(row[name]["bytes"]) for name in ("image_w", "image_l"))
    return Sample(row["kind"], row["prompt"], winner, loser, changes)
