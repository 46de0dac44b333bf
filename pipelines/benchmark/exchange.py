"""Images from and for others: imports a folder in an official layout, and exports the run's images in one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.files import write_file
from conf import UserError
from conf.settings import Settings
from pipelines.benchmark import layout
from pipelines.benchmark.work import Work
from pipelines.common.paths import RunPaths

IMPORTED = "_imported.json"
"""File of a folder of imported images that says where they come from."""


@dataclass(frozen=True)
class Exchange:
    """What was copied."""

    action: str  # "imported" or "exported"
    images: int
    missing: int
    place: Path

    def __str__(self) -> str:
        gone = f"; {self.missing} images are missing" if self.missing else ""
        return f"{self.action} {self.images} images: {self.place}{gone}"


def import_images(settings: Settings, work: Sequence[Work], paths: RunPaths) -> Exchange:
    """Copies the images of `benchmark.images` into the run, as those of the side `benchmark.images_name`.

    Raises UserError if the folder holds no image of the benchmark, or if the side has images of another folder.
    """
    (each,) = work
    source = Path(settings.benchmark.images).absolute()
    target = paths.benchmark_images(each.name, settings.benchmark.images_name)
    record = target / IMPORTED
    known = json.loads(record.read_text())["folder"] if record.is_file() else str(source)
    if known != str(source):
        raise UserError(
            f"{target} holds images of {known}: choose another benchmark.images_name for those of {source}, or delete "
            "that folder"
        )
    copied = layout.import_images(each.name, each.items, source, target)
    if not copied.images:
        raise UserError(
            f"benchmark.images={source} holds no image of {each.name}, e.g. {example(each)}: see docs/benchmarks.md"
        )
    write_file(str(record), json.dumps({"folder": str(source)}).encode())
    return Exchange("imported", copied.images, len(copied.missing), target)


def example(work: Work) -> str:
    """The path of the first image in the official layout, for messages."""
    return layout.official_name(work.name, work.items[0], 0, "MODEL")


def export_images(settings: Settings, work: Sequence[Work], sides: Sequence[str], paths: RunPaths) -> str:
    """Writes the images of the sides below `benchmark.out`: <benchmark>/<side>/ in the official layout.

    Returns a line for each folder. Raises UserError if a side has no images.
    """
    out = Path(settings.benchmark.out).absolute() if settings.benchmark.out else paths.benchmark_export
    lines: list[str] = []
    for each in work:
        for side in sides:
            source, target = paths.benchmark_images(each.name, side), out / each.name / paths.benchmark_side(side)
            if not any(source.glob("*.png")):
                raise UserError(f"{each.name}: no images of {side} in {source}: run `spatialt2i benchmark draw` first")
            copied = layout.export_images(each.name, each.items, source, target, paths.benchmark_side(side))
            lines.append(str(Exchange("exported", copied.images, len(copied.missing), target)))
    return "\n".join(lines)
