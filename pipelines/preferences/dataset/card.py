"""The dataset card: counts beside the paper's, how far reviewers agreed, and what the licence depends on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from conf.review import PublishSettings
from pipelines.preferences.dataset.schema import SCHEMA_VERSION
from pipelines.preferences.dataset.statistics import PAPER_RELATIONS, PAPER_SCENES, Statistics
from pipelines.preferences.review.overview import Overview


def render_card(
    settings: PublishSettings, kept: Statistics, overview: Overview | None, left_out: Mapping[str, int]
) -> str:
    """README.md. `overview`: None where nobody has reviewed."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("card.md").render(
        settings=settings,
        schema_version=SCHEMA_VERSION,
        kept=kept,
        overview=overview,
        left_out=left_out,
        paper_scenes=PAPER_SCENES,
        paper_relations=PAPER_RELATIONS,
        size=_size_category(kept.pairs),
    )


def _size_category(pairs: int) -> str:
    """As the Hugging Face Hub names it."""
    steps = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
    return next((name for limit, name in steps if pairs < limit), "100K<n<1M")
