"""Image files to scores: the Ray Data pipeline of `reward score`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
from pyarrow import fs

from actors.files import file_system, join, read_file
from actors.images import decode_image
from actors.spatialscore import SpatialScorer
from actors.worker_setup import actor_options
from conf.serving import ServingSettings
from pipelines.reward.score_input import ScoreRequest
from pipelines.reward.served_model import open_scorer

SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("prompt", pa.string()),
        ("mu", pa.float32()),  # higher is better; null if there is an error
        ("sigma", pa.float32()),
        ("error", pa.string()),  # why there is no score; null if there is one
    ]
)
READ_CPUS = 0.25  # Ray CPUs of a task that reads files: it waits for them most of the time
MAX_FILE_BYTES = 256 * 2**20
"""Bytes of an image file at most. The largest image that is accepted has 192 MB of pixels."""
MAX_BLOCK_BYTES = 128 * 2**20
"""Bytes of the files that are handed on, and scored, together. A larger file is alone."""


def score_tables(
    requests: Sequence[ScoreRequest], images: str, model: str, serving: ServingSettings, table_rows: int
) -> Iterator[pa.Table]:
    """Scores the images of a folder, and yields tables of SCHEMA with `table_rows` rows, in the order of the requests.

    Ray Data reads files ahead of a pool of actors with one SpatialScore each. An actor takes files of about
    MAX_BLOCK_BYTES together, and decodes one after the other, shrunk to what the model sees: at most
    `serving.batch_images` decoded images are in its memory.
    """
    if not requests:
        return iter(())
    rows = ray.data.from_items([asdict(request) for request in requests])
    rows.context.execution_options.preserve_order = True
    read = cast(Any, partial(read_files, images=images))
    rows = rows.map_batches(read, batch_size=serving.batch_images, batch_format="pyarrow", num_cpus=READ_CPUS)
    rows = rows.map_batches(
        FileScorer,
        fn_constructor_args=(model, serving),
        batch_size=None,  # blocks as they are: a number of rows would put large files together again
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=serving.min_replicas, max_size=serving.max_replicas),
        **actor_options(serving.threads, serving.cpus, serving.gpus, serving.node_group),
    )
    return iter(rows.iter_batches(batch_size=table_rows, batch_format="pyarrow"))


class FileScorer:
    """One actor of the pool: takes rows with image files, returns rows of SCHEMA."""

    def __init__(self, model: str, serving: ServingSettings) -> None:
        self._scorer = open_scorer(model, serving)

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Scores `serving.batch_images` readable images in one call: thousands of small files may come together."""
        step = self._scorer.batch_images
        return (score_files(self._scorer, rows.slice(first, step)) for first in range(0, rows.num_rows, step))


@dataclass
class _Row:
    """A row of SCHEMA."""

    image: str
    prompt: str
    mu: float | None = None
    sigma: float | None = None
    error: str | None = None


def score_files(scorer: SpatialScorer, rows: pa.Table) -> pa.Table:
    """Turns rows {image, prompt, file, error} into rows of SCHEMA. An image that cannot be scored gets an error."""
    described = rows.select(["image", "prompt", "error"]).to_pylist()
    results = [_Row(row["image"], row["prompt"], error=row["error"]) for row in described]
    images: list[np.ndarray] = []
    readable: list[_Row] = []
    for row, file in zip(results, rows["file"], strict=True):
        if row.error is None:
            try:
                scorer.check(row.prompt)
                images.append(decode_image(file.as_py(), shrink_to=scorer.model.processor.useful_pixels))
                readable.append(row)
            except ValueError as error:
                row.error = str(error)
    _score(scorer, images, readable)
    return pa.Table.from_pylist([vars(row) for row in results], schema=SCHEMA)


def _score(scorer: SpatialScorer, images: list[np.ndarray], rows: list[_Row]) -> None:
    """Writes scores into the rows. If the scorer refuses a row nevertheless, the other rows are still scored."""
    if not rows:
        return
    try:
        scores = scorer.score(images=images, prompts=[row.prompt for row in rows])
    except ValueError as error:
        if len(rows) == 1:
            rows[0].error = str(error)
            return
        for image, row in zip(images, rows, strict=True):
            _score(scorer, [image], [row])
        return
    for row, mu, sigma in zip(rows, scores.mu.tolist(), scores.sigma.tolist(), strict=True):
        row.mu, row.sigma = mu, sigma


def read_files(rows: pa.Table, images: str) -> Iterator[pa.Table]:
    """Adds the columns file and error: the content of the image file, or why it cannot be read.

    Yields the rows in their order, in tables whose files have about MAX_BLOCK_BYTES together at most.
    """
    first, size = 0, 0
    files: list[bytes | None] = []
    errors: list[str | None] = []
    for number, name in enumerate(rows["image"].to_pylist()):
        file, error = _read_or_reason(images, name)
        if files and size + len(file or b"") > MAX_BLOCK_BYTES:
            yield _with_files(rows.slice(first, len(files)), files, errors)
            first, size, files, errors = number, 0, [], []
        size += len(file or b"")
        files.append(file)
        errors.append(error)
    yield _with_files(rows.slice(first), files, errors)


def _with_files(rows: pa.Table, files: list[bytes | None], errors: list[str | None]) -> pa.Table:
    with_files = rows.append_column("file", pa.array(files, pa.large_binary()))
    return with_files.append_column("error", pa.array(errors, pa.string()))


def _read_or_reason(folder: str, name: str) -> tuple[bytes | None, str | None]:
    """The content of a file of the folder, or why it cannot be read."""
    try:
        return _read_image(folder, name), None
    except (ValueError, OSError) as error:
        return None, str(error) or type(error).__name__


def _read_image(folder: str, name: str) -> bytes:
    """The content of a file in the folder. Raises ValueError if the name leads elsewhere, or to no file of usual size.

    A link in the folder is followed: whoever writes into the folder may read what it leads to.
    """
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise ValueError("the name leads out of the image folder: use names of files in it")
    system, path = file_system(join(folder, name))
    info = system.get_file_info(path)
    if info.type != fs.FileType.File:
        raise ValueError("no such image" if info.type == fs.FileType.NotFound else "not a file")
    if info.size > MAX_FILE_BYTES:
        raise ValueError(f"the file has {info.size} bytes, over the limit of {MAX_FILE_BYTES}")
    return read_file(join(folder, name))
