"""The before-and-after strip: a few prompts, with the image of the base above that of the trained policy."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw

from actors.images import decode_image
from pipelines.common.paths import RunPaths
from pipelines.evaluation.cases import MODELS, Assessment, Result
from pipelines.evaluation.gallery import outcomes_of, sample_evenly
from pipelines.evaluation.images import image_file

COLUMNS = 8
TILE, GAP, FRAME = 168, 14, 3  # pixels
ROW_NAMES, HEADER, FOOTER = 88, 58, 26  # pixels: left of the images, above them (prompt), below each (counts)
RIGHT, WRONG = (34, 160, 70), (214, 40, 40)  # colour of the frame of a fully correct image, and of any other


def choose(results: Sequence[Result]) -> list[Result]:
    """Returns COLUMNS cases. Each outcome is shown in proportion to its share (method of largest remainders)."""
    groups = [outcome.results for outcome in outcomes_of(results)]
    quotas = [COLUMNS * len(group) / len(results) for group in groups]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(groups)), key=lambda i: counts[i] - quotas[i])
    for i in by_remainder[: COLUMNS - sum(counts)]:
        counts[i] += 1
    return [result for group, count in zip(groups, counts, strict=True) for result in sample_evenly(group, count)]


def before_after_figure(results: Sequence[Result], paths: RunPaths) -> Image.Image:
    """Returns the strip of the chosen cases. A green frame marks an image that is fully correct."""
    chosen = choose(results)
    height = HEADER + len(MODELS) * (TILE + FOOTER)
    figure = Image.new("RGB", (ROW_NAMES + len(chosen) * (TILE + GAP), height), "white")
    draw = ImageDraw.Draw(figure)
    for row, name in enumerate(("base", "after\ntraining")):
        draw.text((8, HEADER + row * (TILE + FOOTER) + TILE // 2 - 16), name, fill="black", font_size=16)
    for column, result in enumerate(chosen):
        left = ROW_NAMES + column * (TILE + GAP)
        draw.text((left, 4), "\n".join(textwrap.wrap(result.case.prompt.text, 25)), fill="black", font_size=13)
        for row, (model, assessment) in enumerate(zip(MODELS, (result.base, result.policy), strict=True)):
            image = Image.fromarray(decode_image(image_file(paths, model, result.case).read_bytes()))
            _paste_tile(figure, image, (left, HEADER + row * (TILE + FOOTER)), assessment)
    return figure


def _paste_tile(figure: Image.Image, image: Image.Image, corner: tuple[int, int], assessment: Assessment) -> None:
    """Pastes a framed image with its count of correct relations. `corner`: left, top in pixels."""
    color, draw = RIGHT if assessment.perfect else WRONG, ImageDraw.Draw(figure)
    left, top = corner
    draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), fill=color)
    inner = TILE - 2 * FRAME
    figure.paste(image.resize((inner, inner), Image.Resampling.LANCZOS), (left + FRAME, top + FRAME))
    count = f"{assessment.num_right} of {len(assessment.outcomes)} relations correct"
    draw.text((left, top + TILE + 2), count, fill=color, font_size=13)
