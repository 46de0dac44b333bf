"""The before-and-after strip: a few prompts, with the image of the base above that of the trained policy."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from actors.images import decode_image
from pipelines.common.paths import RunPaths
from pipelines.evaluation.cases import MODELS, Assessment, Result
from pipelines.evaluation.gallery import Outcome, outcomes_of, sample_evenly
from pipelines.evaluation.images import image_file

COLUMNS = 8
TILE, GAP, FRAME = 168, 14, 3  # pixels
ROW_NAMES, HEADER, FOOTER = 88, 138, 42  # pixels: left of the images, above them, and below each of them
TITLE_TOP, OUTCOME_TOP, PROMPT_TOP, LEGEND = 6, 36, 66, 30  # pixels: where the lines of the header are; the last line
RIGHT, WRONG, MORE = (34, 160, 70), (214, 40, 40), (161, 98, 7)
"""Colours of a fully correct image, of any other, and of objects that the prompt does not name."""


@dataclass(frozen=True)
class ChosenOutcome:
    """An outcome, and the cases of it that the strip shows."""

    outcome: Outcome
    shown: tuple[Result, ...]


def choose(results: Sequence[Result]) -> list[ChosenOutcome]:
    """Returns the outcomes that the strip shows, with COLUMNS cases in all.

    Each outcome is shown in proportion to its share (method of largest remainders). But if training made any case
    worse, at least one such case is shown.
    """
    outcomes = outcomes_of(results)
    quotas = [COLUMNS * len(outcome.results) / len(results) for outcome in outcomes]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(outcomes)), key=lambda i: counts[i] - quotas[i])
    for i in by_remainder[: COLUMNS - sum(counts)]:
        counts[i] += 1
    if outcomes[-1].results and not counts[-1]:
        counts[counts.index(max(counts))] -= 1
        counts[-1] = 1
    shown = [tuple(sample_evenly(outcome.results, count)) for outcome, count in zip(outcomes, counts, strict=True)]
    return [ChosenOutcome(outcome, cases) for outcome, cases in zip(outcomes, shown, strict=True) if cases]


def before_after_figure(results: Sequence[Result], paths: RunPaths) -> Image.Image:
    """Returns the strip of the chosen cases, by outcome. A green frame marks an image that is fully correct."""
    chosen = choose(results)
    columns = [result for each in chosen for result in each.shown]
    height = HEADER + len(MODELS) * (TILE + FOOTER) + LEGEND
    figure = Image.new("RGB", (ROW_NAMES + len(columns) * (TILE + GAP), height), "white")
    draw = ImageDraw.Draw(figure)
    _draw_texts(draw, chosen, len(results), height)
    for column, result in enumerate(columns):
        left = ROW_NAMES + column * (TILE + GAP)
        draw.text((left, PROMPT_TOP), "\n".join(textwrap.wrap(result.case.prompt.text, 25)), fill="black", font_size=13)
        for row, (model, assessment) in enumerate(zip(MODELS, (result.base, result.policy), strict=True)):
            image = Image.fromarray(decode_image(image_file(paths, model, result.case).read_bytes()))
            _paste_tile(figure, image, (left, HEADER + row * (TILE + FOOTER)), assessment)
    return figure


def _draw_texts(draw: ImageDraw.ImageDraw, chosen: Sequence[ChosenOutcome], count: int, height: int) -> None:
    """Draws the title, the names of rows and outcomes, and the legend. `count`: number of cases."""
    title = f"Held-out prompts, before and after training, from the same noise: {COLUMNS} of {count} pairs of images"
    draw.text((8, TITLE_TOP), title, fill="black", font_size=18)
    for row, name in enumerate(("base", "after\ntraining")):
        draw.text((8, HEADER + row * (TILE + FOOTER) + TILE // 2 - 16), name, fill="black", font_size=16)
    first = 0
    for each in chosen:
        left, right = (ROW_NAMES + n * (TILE + GAP) for n in (first, first + len(each.shown)))
        name, narrow = f"{each.outcome.title}: {len(each.outcome.results) / count:.1%}", len(each.shown) == 1
        draw.text((left, OUTCOME_TOP), name, fill="black", font_size=12 if narrow else 15)
        draw.line((left, PROMPT_TOP - 6, right - GAP - 1, PROMPT_TOP - 6), fill="black", width=2)
        first += len(each.shown)
    left, top = ROW_NAMES, height - LEGEND + 6
    for color, text in (
        (RIGHT, "fully correct: the objects and relations of the prompt, and no other object"),
        (WRONG, "not fully correct"),
        (MORE, "shows an object that the prompt does not name"),
    ):
        draw.rectangle((left, top + 2, left + 12, top + 14), fill=color)
        draw.text((left + 18, top), text, fill="black", font_size=13)
        left += 18 + int(draw.textlength(text, font_size=13)) + 28


def _paste_tile(figure: Image.Image, image: Image.Image, corner: tuple[int, int], assessment: Assessment) -> None:
    """Pastes a framed image with its count of correct relations. `corner`: left, top in pixels."""
    color, draw = RIGHT if assessment.perfect else WRONG, ImageDraw.Draw(figure)
    left, top = corner
    draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), fill=color)
    inner = TILE - 2 * FRAME
    figure.paste(image.resize((inner, inner), Image.Resampling.LANCZOS), (left + FRAME, top + FRAME))
    count = f"{assessment.num_right} of {len(assessment.outcomes)} relations correct"
    draw.text((left, top + TILE + 2), count, fill=color, font_size=13)
    if assessment.unrequested:
        more = f"also: {', '.join(assessment.unrequested)}"
        draw.text((left, top + TILE + 19), textwrap.shorten(more, 27, placeholder=" …"), fill=MORE, font_size=13)
