"""`reward score`: a whole folder of images under their prompts, by Ray Data over a pool of SpatialScorers."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from PIL import Image

from actors.files import delete_folder, exists, is_folder, join, read_file, write_file
from actors.spatialscore import SpatialScorer
from actors.worker_setup import actor_options
from conf.serving import ServingSettings
from conf.settings import Settings
from pipelines.common.images import decode
from pipelines.common.paths import score_folder
from pipelines.reward.evaluate import open_scorer
from pipelines.reward.sanity_report import weights_digest
from pipelines.reward.served_model import served_model

SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("prompt", pa.string()),
        ("mu", pa.float32()),  # higher is better; null where there is an error
        ("sigma", pa.float32()),
        ("error", pa.string()),  # why there is no score; null where there is one
    ]
)
READ_CPUS = 0.25  # Ray CPUs of a task that reads files, which waits most of the time
_BAD_IMAGE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class WrongPrompts(ValueError):
    """The file of prompts, or the folder of images, is none. Its text names the line and the mend."""


@dataclass(frozen=True)
class ScoreResult:
    """What `score_images` made."""

    out: str
    images: int
    without_score: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.images} images in {self.seconds:.0f} s, {self.without_score} of them without a score (column "
            f"`error`): {self.out}"
        )


@dataclass(frozen=True)
class Chunk:
    """Rows that are saved together, and where."""

    rows: Sequence[dict[str, str]]
    place: str


def score_images(settings: Settings, log: Callable[[str], None] = print) -> ScoreResult:
    """Scores the images of `score.prompts` and writes `score.out`: rows of SCHEMA, in the order of the prompts.

    An image that is missing or broken is a row with an error. `log` gets lines of progress. A call that is interrupted
    goes on from its last chunk. Ray must be initialised. Raises WrongPrompts for a file or folder that is none,
    FileNotFoundError where the run has no SpatialScore.
    """
    own, model, start = settings.score, served_model(settings), time.monotonic()
    rows, images, parts = read_prompts(own.prompts), image_folder(own.images), f"{own.out}.parts"
    basis = f"{weights_digest(score_folder(settings))}|{images}"
    chunks = [
        _chunk(parts, basis, first, rows[first : first + own.chunk_rows])
        for first in range(0, len(rows), own.chunk_rows)
    ]
    waiting = [chunk for chunk in chunks if not exists(chunk.place)]
    total, done, without = sum(len(chunk.rows) for chunk in waiting), 0, 0
    for chunk, table in zip(waiting, _scored(waiting, images, model, settings.serving, own.chunk_rows), strict=True):
        write_file(chunk.place, _parquet(table))
        done += table.num_rows
        without += table.num_rows - table["error"].null_count
        rate = done / (time.monotonic() - start)
        left = (total - done) / rate
        log(f"score {done}/{total} images  {rate:.1f} images/s  {without} without a score  {left:.0f} s left")
    table = pa.concat_tables([pq.read_table(pa.BufferReader(read_file(chunk.place))) for chunk in chunks])
    write_file(own.out, _parquet(table))
    delete_folder(parts)
    without = table.num_rows - table["error"].null_count
    return ScoreResult(own.out, table.num_rows, without, time.monotonic() - start)


def read_prompts(location: str) -> list[dict[str, str]]:
    """Rows {"image", "prompt"} of a file of JSON lines; blank lines are skipped, other fields left out.

    Raises WrongPrompts where there is no such file, it has no rows, or a line is none.
    """
    wanted = 'a line must be {"image": "name in the folder.png", "prompt": "text"}'
    if not location or not exists(location):
        raise WrongPrompts(f"no file of prompts at {location!r}: reward score prompts.jsonl images/; {wanted}")
    rows = []
    for number, line in enumerate(read_file(location).decode().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            image, prompt = row["image"], row["prompt"]
        except (ValueError, KeyError, TypeError):
            raise WrongPrompts(f"{location}, line {number}: {wanted}, got {line[:200]}") from None
        if not isinstance(image, str) or not isinstance(prompt, str) or not image:
            raise WrongPrompts(f"{location}, line {number}: {wanted}, got {line[:200]}")
        rows.append({"image": image, "prompt": prompt})
    if not rows:
        raise WrongPrompts(f"{location} is empty: {wanted}")
    return rows


def image_folder(location: str) -> str:
    """The folder as actors find it, wherever they run. Raises WrongPrompts where there is none."""
    if not location or not is_folder(location):
        raise WrongPrompts(f"no folder of images at {location!r}: reward score prompts.jsonl images/")
    return location if "://" in location else str(Path(location).absolute())


class Scoring:
    """One actor of the pool: rows with files in, rows of SCHEMA out."""

    def __init__(self, model: str, pool: ServingSettings) -> None:
        self._scorer = open_scorer(model, pool)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Scores what can be read, in one call."""
        return score_files(self._scorer, rows)


def score_files(scorer: SpatialScorer, rows: pa.Table) -> pa.Table:
    """Rows {image, prompt, file, error} -> rows of SCHEMA."""
    found = [_Row(row["image"], row["prompt"], error=row["error"]) for row in rows.to_pylist()]
    images: list[np.ndarray] = []
    scored: list[_Row] = []
    for row, file in zip(found, rows["file"].to_pylist(), strict=True):
        if row.error is None:
            try:
                scorer.check(row.prompt)
                images.append(decode(file))
                scored.append(row)
            except _BAD_IMAGE as error:
                row.error = _told(error)
    if images:
        scores = scorer.score(images=images, prompts=[row.prompt for row in scored])
        for row, mu, sigma in zip(scored, scores.mu.tolist(), scores.sigma.tolist(), strict=True):
            row.mu, row.sigma = mu, sigma
    return pa.Table.from_pylist([vars(row) for row in found], schema=SCHEMA)


@dataclass
class _Row:
    image: str
    prompt: str
    mu: float | None = None
    sigma: float | None = None
    error: str | None = None


def _scored(
    waiting: Sequence[Chunk], images: str, model: str, pool: ServingSettings, chunk_rows: int
) -> Iterator[pa.Table]:
    """The chunks' tables, in order."""
    if not waiting:
        return iter(())
    rows = ray.data.from_items([row for chunk in waiting for row in chunk.rows])
    rows.context.execution_options.preserve_order = True
    reading = cast(Any, partial(_read, images=images))
    rows = rows.map_batches(
        reading, batch_size=pool.batch_images, batch_format="pyarrow", num_cpus=READ_CPUS
    ).map_batches(
        Scoring,
        fn_constructor_args=(model, pool),
        batch_size=pool.batch_images,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=pool.min_replicas, max_size=pool.max_replicas),
        **actor_options(pool.threads, pool.cpus, pool.gpus, pool.node_group),
    )
    return iter(rows.iter_batches(batch_size=chunk_rows, batch_format="pyarrow"))


def _read(rows: pa.Table, images: str) -> pa.Table:
    """Adds the images' files, or why one cannot be read."""
    files, errors = [], []
    for name in rows["image"].to_pylist():
        try:
            files.append(read_file(join(images, name)))
            errors.append(None)
        except OSError as error:
            files.append(None)
            errors.append("no such image" if isinstance(error, FileNotFoundError) else _told(error))
    return rows.append_column("file", pa.array(files, pa.binary())).append_column(
        "error", pa.array(errors, pa.string())
    )


def _chunk(parts: str, basis: str, first: int, rows: Sequence[dict[str, str]]) -> Chunk:
    digest = hashlib.sha256(json.dumps([basis, *rows]).encode()).hexdigest()[:16]
    return Chunk(rows, join(parts, f"{first:09d}-{digest}.parquet"))


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table.cast(SCHEMA), buffer)
    return buffer.getvalue()


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
