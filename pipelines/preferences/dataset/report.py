"""`spatialt2i preferences report`: charts and samples of a run's pairs, as one HTML file without external files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from actors.files import write_file
from actors.images import ImageError
from actors.json_files import object_or_none
from conf.settings import Settings
from pipelines.common.charts import Bar, bar_chart
from pipelines.common.images import data_uri
from pipelines.common.paths import run_paths
from pipelines.preferences.dataset.meanings import EDITS, FORMS, KINDS, explain
from pipelines.preferences.dataset.reviews import read_reviews
from pipelines.preferences.dataset.schema import SCHEMA
from pipelines.preferences.dataset.source_rows import read_rows
from pipelines.preferences.dataset.statistics import PAPER_RELATIONS, PAPER_SCENES, WORD_BIN, Statistics
from pipelines.preferences.dataset.vote_table import vote_table
from pipelines.preferences.review.pairs import PairSet, pair_files

SAMPLES = 3  # pairs shown of each kind
MAX_BARS = 20  # of a chart
PAPER_PAIRS = sum(PAPER_RELATIONS.values())


@dataclass(frozen=True)
class Figure:
    """A chart with its caption."""

    title: str
    svg: Markup
    caption: str


@dataclass(frozen=True)
class Sample:
    """One of the first pairs of its kind."""

    kind: str
    prompt: str
    winner: str  # data URI
    loser: str  # data URI
    edits: tuple[str, ...]


def report(settings: Settings) -> Path:
    """Writes the report, and the votes as CSV if there are any. Returns the path of the report.

    Raises UserError if the run has no pairs.
    """
    paths = run_paths(settings)
    reviews = read_reviews(settings)
    counts = Statistics()
    shown: set[str] = set()  # ids of the first pairs of each kind
    for row in read_rows(paths.preferences, [name for name in SCHEMA.names if not name.startswith("image_")]):
        counts.add({**row, "review": reviews.of(row)}, annotated=row["pair_id"] in reviews.by_pair)
        if counts.kinds[row["kind"]] <= SAMPLES:
            shown.add(row["pair_id"])
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(
        settings=settings,
        counts=counts,
        overview=reviews.overview,
        rejected=_rejected_by_build(paths.preferences_manifest),
        kinds=explain(KINDS, counts.kinds),
        figures=_figures(counts),
        samples=_samples(paths.preferences, shown),
    )
    write_file(str(paths.preferences_report), html.encode())
    if reviews.votes:
        pairs = {pair.pair_id: pair for pair in PairSet(paths.preferences).pairs()}
        write_file(str(paths.review_votes), vote_table(reviews.votes, pairs))
        paths.review_votes.chmod(0o600)  # it names the annotators, as the database does
    return paths.preferences_report


def _figures(counts: Statistics) -> list[Figure]:
    """The charts. One without bars is left out."""
    words = Counter({f"{low}–{low + WORD_BIN - 1}": counts.words[low] for low in sorted(counts.words)})
    relations = dict(sorted(counts.relations.items()))
    phrases, edits = dict(counts.phrases.most_common(MAX_BARS)), dict(counts.perturbations.most_common(MAX_BARS))
    scenes = dict(counts.scenes.most_common(MAX_BARS))
    figures = [
        _figure("Scenes", scenes, counts.pairs, explain(FORMS, counts.scenes), PAPER_SCENES),
        _figure("Relations of a prompt", relations, counts.pairs, "", PAPER_RELATIONS),
        _figure("Words of a prompt", words, counts.pairs, "Paper: mode about 58 words, range 35 to 100"),
        _figure("Wordings of relations", phrases, counts.phrases.total(), ""),
        _figure("Perturbations", edits, counts.perturbations.total(), explain(EDITS, counts.perturbations)),
        _figure("Changed relations", dict(sorted(counts.changed.items())), counts.pairs, "0: same prompt for both"),
        _acceptance(counts),
    ]
    return [figure for figure in figures if figure]


def _figure(
    title: str, counts: Mapping[Any, int], total: int, caption: str, paper: Mapping[Any, int] | None = None
) -> Figure | None:
    """Bars of shares of `total`. `paper` holds the paper's counts of the same values."""
    paper = paper or {}
    bars = [
        Bar(str(name), count / max(total, 1), paper[name] / PAPER_PAIRS if name in paper else None)
        for name, count in counts.items()
    ]
    marker = "The tick across a bar is the paper's share" if any(bar.reference is not None for bar in bars) else ""
    sentences = "".join(f"{sentence}. " for sentence in (caption, marker) if sentence)
    return Figure(title, Markup(bar_chart(title, bars)), sentences.strip()) if bars else None


def _acceptance(counts: Statistics) -> Figure | None:
    """The fraction of each generator's pairs that annotators accepted; None if they have decided none."""
    bars: list[Bar] = []
    for name in sorted(counts.generators):
        accepted, rejected = (counts.by_generator[name, status] for status in ("accepted", "rejected"))
        if accepted + rejected:
            bars.append(Bar(name, accepted / (accepted + rejected)))
    caption = "Fraction of the pairs of a generator that annotators accepted, of those that they decided."
    title = "Accepted by annotators"
    return Figure(title, Markup(bar_chart(title, bars)), caption) if bars else None


def _rejected_by_build(manifest: Path) -> int | None:
    """Pairs that the build generated and its check rejected; None if the manifest does not state it."""
    rejected = (object_or_none(str(manifest)) or {}).get("rejected")
    return rejected if isinstance(rejected, int) else None


def _samples(folder: Path, pair_ids: set[str]) -> list[Sample]:
    """The pairs with these ids, by kind. Reads the row groups that hold them and no others."""
    samples: list[Sample] = []
    for path in pair_files(folder):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            found = pair_ids & set(file.read_row_group(group, columns=["pair_id"])["pair_id"].to_pylist())
            if found:
                rows = file.read_row_group(group).to_pylist()
                samples += [one for row in rows if row["pair_id"] in found and (one := _sample(row))]
                pair_ids = pair_ids - found
        if not pair_ids:
            break
    return sorted(samples, key=lambda sample: sample.kind)


def _sample(row: Mapping[str, Any]) -> Sample | None:
    """The pair as the page shows it; None if an image cannot be read."""
    edits = tuple(f"{edit['kind']}: {edit['from']} → {edit['to'] or 'nothing'}" for edit in row["perturbations"])
    try:
        winner, loser = (data_uri(row[name]["bytes"]) for name in ("image_w", "image_l"))
    except ImageError:
        return None
    return Sample(row["kind"], row["prompt"], winner, loser, edits)
