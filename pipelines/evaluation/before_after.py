"""One picture of an evaluation: a few prompts, drawn by the base above and by the trained policy below."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from pipelines.evaluation.cases import SIDES, Assessment, Result
from pipelines.evaluation.gallery import outcomes_of, sample_evenly

COLUMNS = 8  # shared out among the fates in proportion to their sizes
TILE, GAP, FRAME = 168, 14, 3  # pixels
NAMES, HEADER, FOOTER = 88, 58, 26  # pixels: names of the rows, prompts above, counts below a picture
RIGHT, WRONG = (34, 160, 70), (214, 40, 40)


def choose(results: Sequence[Result]) -> list[Result]:
    """COLUMNS cases, as many of each fate as its share of all cases asks for (largest remainders), none by hand."""
    groups = [fate.results for fate in outcomes_of(results)]
    exact = [COLUMNS * len(group) / len(results) for group in groups]
    places = [int(share) for share in exact]
    by_remainder = sorted(range(len(groups)), key=lambda i: places[i] - exact[i])
    for i in by_remainder[: COLUMNS - sum(places)]:
        places[i] += 1
    return [result for group, count in zip(groups, places, strict=True) for result in sample_evenly(group, count)]


def before_after_figure(results: Sequence[Result], folder: Path) -> Image.Image:
    """The chosen cases from the pictures in `folder`/{base,policy}, framed green where the whole prompt is right."""
    chosen = choose(results)
    height = HEADER + len(SIDES) * (TILE + FOOTER)
    canvas = Image.new("RGB", (NAMES + len(chosen) * (TILE + GAP), height), "white")
    write = ImageDraw.Draw(canvas)
    for row, name in enumerate(("base", "after\ntraining")):
        write.text((8, HEADER + row * (TILE + FOOTER) + TILE // 2 - 16), name, fill="black", font_size=16)
    for column, result in enumerate(chosen):
        left = NAMES + column * (TILE + GAP)
        write.text((left, 4), "\n".join(textwrap.wrap(result.case.prompt.text, 25)), fill="black", font_size=13)
        for row, (side, sight) in enumerate(zip(SIDES, (result.base, result.policy), strict=True)):
            with Image.open(folder / side / f"{result.case.name}.png") as image:
                _tile(canvas, image, left, HEADER + row * (TILE + FOOTER), sight)
    return canvas


def _tile(canvas: Image.Image, image: Image.Image, left: int, top: int, sight: Assessment) -> None:
    color, write = RIGHT if sight.perfect else WRONG, ImageDraw.Draw(canvas)
    write.rectangle((left, top, left + TILE - 1, top + TILE - 1), fill=color)
    inner = TILE - 2 * FRAME
    canvas.paste(image.convert("RGB").resize((inner, inner), Image.Resampling.LANCZOS), (left + FRAME, top + FRAME))
    told = f"{sight.right} of {len(sight.outcomes)} right"
    write.text((left, top + TILE + 2), told, fill=color, font_size=13)
