"""Memory of stage 2 by the number of pairs, with images as large as those of the full-size generators.

    python -m tests.bench.reward_memory 800 8000

writes pairs of random noise, a PNG of 1024 x 1024 and 3 MB and in every eighth pair one of 1536 x 1536 and 7 MB, and
prints time and peak memory of `reward train` (one epoch, with evaluation and sanity checks) and of `reward score`.
The model is the shipped tiny one, so that the memory is that of the data. The files hold few different images, each
stored once a row group, but every row is decoded. 8,000 pairs take twenty minutes on two idle cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conf import load
from pipelines.common.images import encode_png
from pipelines.common.paths import run_paths
from pipelines.preferences.dataset.schema import SCHEMA, to_table
from pipelines.preferences.roles.base import RowSpec
from pipelines.preferences.roles.scenes import SceneReviewer
from tests.bench.process_memory import MIB, run_measured
from tests.support.scene_pairs import scene_pairs

SIDES = (*(1024,) * 7, 1536)
"""Width and height of the images, one after the other."""
GROUP_ROWS, TEST_PART = 40, 5
OPTIONS = ("reward.epochs=1", "reward.shuffle_rows=160", "reward.batch_size=40", "reward.both_prompts=false")


def write_pairs(folder: Path, count: int) -> list[bytes]:
    """Writes `count` pairs, every fifth one held out. Returns the PNG files that they consist of."""
    rng = np.random.default_rng(0)
    files = [encode_png(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for side in SIDES]
    images = [{"bytes": file, "path": None, "sha256": f"{i:064d}", "phash": ""} for i, file in enumerate(files)]
    folder.mkdir(parents=True)
    for name, split, rows in (("train", "train", count - count // TEST_PART), ("test", "test", count // TEST_PART)):
        with pq.ParquetWriter(folder / f"{name}-00000.parquet", SCHEMA, dictionary_pagesize_limit=2**26) as writer:
            for first in range(0, rows, GROUP_ROWS):
                numbers = range(first, min(first + GROUP_ROWS, rows))
                writer.write_table(_rows(numbers, split, images))
    return files


def _rows(numbers: Sequence[int], split: str, images: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of the scenes world whose images are replaced by large ones."""
    offset = 0 if split == "train" else 10**6  # ids are unique over the splits
    pairs = scene_pairs([RowSpec(offset + number, "perturbed", offset + number) for number in numbers])
    table = to_table(pairs, SceneReviewer().review(pairs), [split] * len(pairs), split)
    rows = table.to_pylist()
    for number, row in zip(numbers, rows, strict=True):
        row["image_w"], row["image_l"] = images[number % len(images)], images[(number + 3) % len(images)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write_scored(folder: Path, count: int, files: Sequence[bytes]) -> Path:
    """Writes the input of `reward score`: `count` lines, and the images that they name. Returns the lines' file."""
    folder.mkdir()
    for number, file in enumerate(files):
        (folder / f"{number}.png").write_bytes(file)
    lines = [{"image": f"{i % len(files)}.png", "prompt": "a red circle left of a blue square"} for i in range(count)]
    path = folder / "lines.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def measure(count: int, run_dir: Path) -> None:
    """Prints a line for each command on `count` pairs."""
    overrides = [f"run_dir={run_dir}", *OPTIONS]
    paths = run_paths(load("scenes", overrides))
    files = write_pairs(paths.preferences, count)
    lines = write_scored(run_dir / "scored", count // TEST_PART, files)
    cli = [sys.executable, "-m", "pipelines.cli", "reward"]
    commands = {
        "train": [*cli, "train", "scenes", *overrides],
        "score": [*cli, "score", str(lines), str(lines.parent), "--out", str(run_dir / "scores.parquet"), *overrides],
    }
    for name, command in commands.items():
        usage = run_measured(command, codes=(0, 1))  # 1: what is learned from noise fails the sanity checks
        print(
            f"{count:6d} pairs  reward {name:<6} {usage.seconds:6.0f} s  peak {usage.peak / MIB:6.0f} MiB", flush=True
        )


def main() -> None:
    """See the docstring of the module."""
    for count in [int(word) for word in sys.argv[1:]] or [800, 8000]:
        with tempfile.TemporaryDirectory() as folder:
            measure(count, Path(folder) / "run")


if __name__ == "__main__":
    main()
