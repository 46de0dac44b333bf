"""The dataset card: counts next to those of the paper, agreement of the annotators, and the licence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from conf.review import PublishSettings
from pipelines.preferences.claims import CLAIM_KINDS
from pipelines.preferences.dataset.schema import SCHEMA_VERSION
from pipelines.preferences.dataset.statistics import PAPER_RELATIONS, PAPER_SCENES, Statistics
from pipelines.preferences.review.overview import Overview


def render_card(
    settings: PublishSettings,
    published: Statistics,
    overview: Overview | None,
    left_out: Mapping[str, int],
    licence_notes: Sequence[str],
) -> str:
    """The text of README.md. `overview` is None if no annotator has reviewed; `left_out` maps a reason to pairs."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("card.md").render(
        settings=settings,
        schema_version=SCHEMA_VERSION,
        published=published,
        overview=overview,
        left_out=left_out,
        kinds=CLAIM_KINDS,
        licence_notes=licence_notes,
        paper_scenes=PAPER_SCENES,
        paper_relations=PAPER_RELATIONS,
        size=_size_category(published.pairs),
    )


def _size_category(pairs: int) -> str:
    """The name of the size category on the Hugging Face Hub."""
    steps = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
    return next((name for limit, name in steps if pairs < limit), "100K<n<1M")
