"""Images of a benchmark: our folder of one side, and the layouts that the official scripts read.

Ours is `<item>_<image>.png`. Officially:

    dpg          <item>.png                                     a grid of 2 x 2 images; a single image as it is
    tiif         <type>/<model>/<length>_description/<index>.png
    unigenbench  en/<model>/<index>_<image>.png                  unigenbench_long: en_long
    geneval      <index:05>/samples/<image:05>.png               and <index:05>/metadata.jsonl
    spatialgeneval  <item>.png                   its script pairs the sorted names with its rows: none may be missing
    geneval2     <index:05>.png                                  and images.json: prompt -> path

PNG files are copied byte for byte. Cells of a grid are decoded and encoded: the same pixels, and the same bytes if the
image was written by this project.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from actors.files import write_file
from actors.images import ImageError, decode_image
from conf import UserError
from pipelines.benchmark.items import BenchmarkItem
from pipelines.common.images import encode_png

GRID = 4
"""Images of one file of DPG-Bench: top left, top right, bottom left, bottom right."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Copied:
    """What an export or an import found."""

    images: int
    missing: tuple[str, ...]  # names of our files of images that are not there


def image_name(item: str, image: int) -> str:
    """The name of an image in our folder."""
    return f"{item}_{image}.png"


def official_name(benchmark: str, item: BenchmarkItem, image: int, model: str) -> str:
    """The path of an image in the official layout. In DPG-Bench all images of an item have the same."""
    if benchmark == "dpg":
        return f"{item.id}.png"
    if benchmark == "tiif":
        return f"{item.group}/{model}/{item.length}_description/{item.index}.png"
    if benchmark in ("unigenbench", "unigenbench_long"):
        return f"{'en' if item.length == 'short' else 'en_long'}/{model}/{item.index}_{image}.png"
    if benchmark == "geneval":
        return f"{item.index:05d}/samples/{image:05d}.png"
    if benchmark in ("spatialgeneval", "geneval2"):
        return f"{item.id}.png"
    raise KeyError(benchmark)


def export_images(benchmark: str, items: Sequence[BenchmarkItem], source: Path, target: Path, model: str) -> Copied:
    """Writes the images of one side in the official layout below `target`. Missing ones are listed and left out.

    A grid of DPG-Bench needs all images of its item: the official script would judge a black cell. Raises UserError for
    images in a grid that are not square or differ in size.
    """
    copied, missing = 0, list[str]()
    for item in items:
        names = [image_name(item.id, image) for image in range(item.images)]
        absent = [name for name in names if not (source / name).is_file()]
        missing += absent
        if benchmark == "geneval" and len(absent) < len(names):
            line = json.dumps(dict(item.metadata)) + "\n"
            write_file(str(target / f"{item.index:05d}" / "metadata.jsonl"), line.encode())
        if benchmark == "dpg" and item.images > 1:
            if not absent:
                write_file(
                    str(target / official_name(benchmark, item, 0, model)), _grid([source / each for each in names])
                )
                copied += item.images
            continue
        for image, name in enumerate(names):
            if name not in absent:
                place = target / official_name(benchmark, item, image, model)
                write_file(str(place), (source / name).read_bytes())
                copied += 1
    if benchmark == "geneval2":
        named = {item.prompt: str(target.absolute() / f"{item.id}.png") for item in items}
        write_file(str(target / "images.json"), json.dumps(named, indent=1).encode())
    return Copied(copied, tuple(missing))


def import_images(benchmark: str, items: Sequence[BenchmarkItem], source: Path, target: Path) -> Copied:
    """Copies images from a folder in the official layout into our folder `target`. Missing ones are listed.

    PNG, JPEG and WEBP are read; all are written as PNG. Raises UserError if the folder holds images of several models,
    or a file that is no image.
    """
    copied, missing = 0, list[str]()
    model = _model_of(benchmark, items, source)
    for item in items:
        grid = benchmark == "dpg" and item.images > 1
        cells = _cells(source, item) if grid else []
        for image in range(item.images):
            name = image_name(item.id, image)
            content = (
                (cells[image] if image < len(cells) else None)
                if grid
                else _content(source, _relative(benchmark, official_name(benchmark, item, image, model), model))
            )
            if content is None:
                missing.append(name)
            else:
                write_file(str(target / name), content)
                copied += 1
    return Copied(copied, tuple(missing))


def _relative(benchmark: str, name: str, model: str) -> PurePosixPath:
    """The path of a file below the folder that is imported: of UniGenBench++, that may be the model's own folder."""
    path = PurePosixPath(name)
    return PurePosixPath(path.name) if benchmark.startswith("unigenbench") and not model else path


def _model_of(benchmark: str, items: Sequence[BenchmarkItem], source: Path) -> str:
    """The one model of an official layout; "" if the layout names none. Raises UserError if there are several."""
    if benchmark == "tiif":
        parents = [source / kind for kind in dict.fromkeys(item.group for item in items)]
    elif benchmark.startswith("unigenbench") and items:
        parents = [source / ("en" if items[0].length == "short" else "en_long")]
    else:
        return ""
    folders = {each.name for parent in parents if parent.is_dir() for each in parent.iterdir() if each.is_dir()}
    if len(folders) > 1:
        raise UserError(
            f"{source} must hold the images of one model, got {', '.join(sorted(folders))}: keep the folders of one"
        )
    if not folders and benchmark == "tiif":
        raise UserError(f"{source} must hold images as <type>/<model>/<length>_description/<index>.png, got none")
    return next(iter(folders), "")


def _content(source: Path, name: PurePosixPath) -> bytes | None:
    """An image file as PNG; None if there is none with any of the suffixes."""
    path = _find(source, name)
    if path is None:
        return None
    content = path.read_bytes()
    pixels = _decode(path, content)
    return content if content.startswith(_PNG) else encode_png(pixels)


def _find(source: Path, name: PurePosixPath) -> Path | None:
    places = (source / name.parent / f"{name.stem}{suffix}" for suffix in SUFFIXES)
    return next((place for place in places if place.is_file()), None)


def _decode(path: Path, content: bytes) -> np.ndarray:
    try:
        return decode_image(content)
    except ImageError as error:
        raise UserError(f"{path}: {error}: replace or remove the file") from error


def _grid(paths: Sequence[Path]) -> bytes:
    """A PNG of 2 x 2 images of one square size; unused cells are black."""
    images = [_decode(path, path.read_bytes()) for path in paths]
    side = images[0].shape[0]
    for path, image in zip(paths, images, strict=True):
        if image.shape != (side, side, 3):
            raise UserError(
                f"{path} must have {side} x {side} pixels in a grid of DPG-Bench, got {image.shape[1]} x "
                f"{image.shape[0]}: the official script cuts square images of one size"
            )
    if len(images) > GRID:
        raise UserError(f"a grid of DPG-Bench has {GRID} images at most, got {len(images)}: lower images_per_prompt")
    grid = np.zeros((2 * side, 2 * side, 3), np.uint8)
    for number, image in enumerate(images):
        y, x = side * (number // 2), side * (number % 2)
        grid[y : y + side, x : x + side] = image
    return encode_png(grid)


def _cells(source: Path, item: BenchmarkItem) -> list[bytes]:
    """The images of an item's grid as PNG; [] if there is no grid."""
    path = _find(source, PurePosixPath(f"{item.id}.png"))
    if path is None:
        return []
    grid = _decode(path, path.read_bytes())
    height, width = grid.shape[:2]
    if height != width or height % 2:
        raise UserError(f"{path} must be a grid of 2 x 2 square images, got {width} x {height} pixels")
    side = height // 2
    corners = [(side * (number // 2), side * (number % 2)) for number in range(GRID)]
    return [encode_png(np.ascontiguousarray(grid[y : y + side, x : x + side])) for y, x in corners]
