"""Which pairs optimizer step n learns from: a pure function of the seed, whatever the workers and their deaths.

An epoch is one sequence of the training pairs. The files' row groups are put in an order drawn from (seed, epoch) and
cut into windows of about `window_rows` rows, whose rows are permuted. Step n takes the epoch's next B rows, and rank r
of W those at [r B / W, (r + 1) B / W): the same pairs on any number of workers. Ray tasks read the windows ahead, in
order. Every rank reads each window's file and keeps its own rows, which costs far less than learning from them.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
import pyarrow.parquet as pq
import ray

from actors.files import file_system
from pipelines.reward.data import COLUMNS

IDENTITY = ("split", "prompt", "perturbed_prompt", "image_w.sha256", "image_l.sha256")
PUBLISHED_IDENTITY = (*IDENTITY[:3], "image_w_sha256", "image_l_sha256")
TRAINING = pc.field("split") == "train"
READ_CPUS = 0.25  # Ray CPUs of a reading task, which waits for files most of the time
READ_AHEAD = 2  # windows


@dataclass(frozen=True)
class RowGroup:
    """Some of a parquet file's rows."""

    path: str  # inside the folder's file system
    index: int
    rows: int  # of the training split
    content: str  # digest of those rows' images and prompts: a fit on other rows is another fit


@dataclass(frozen=True)
class RankInfo:
    """One of `ranks` workers."""

    rank: int
    ranks: int

    def share(self, batch_size: int) -> slice:
        """The places of a batch that are this worker's."""
        return slice(self.rank * batch_size // self.ranks, (self.rank + 1) * batch_size // self.ranks)


@dataclass(frozen=True)
class ShuffleWindow:
    """Rows [start, stop) of an epoch's sequence."""

    epoch: int
    number: int
    groups: tuple[RowGroup, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class PairSampler:
    """The order of a whole fit."""

    folder: str
    groups: tuple[RowGroup, ...]
    batch_size: int  # pairs of an optimizer step, over all workers
    epochs: int
    window_rows: int
    seed: int

    @property
    def pairs(self) -> int:
        """Pairs of the training split."""
        return sum(group.rows for group in self.groups)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch; the rows that are left over differ from epoch to epoch."""
        return self.pairs // self.batch_size

    @property
    def steps(self) -> int:
        """Optimizer steps of the fit."""
        return self.epochs * self.steps_per_epoch

    def windows(self, epoch: int) -> list[ShuffleWindow]:
        """The windows of an epoch, in order."""
        rng, windows, first, start = np.random.default_rng([self.seed, epoch]), [], 0, 0
        groups = [self.groups[i] for i in rng.permutation(len(self.groups))]
        for last in range(1, len(groups) + 1):
            rows = sum(group.rows for group in groups[first:last])
            if rows >= self.window_rows or last == len(groups):
                windows.append(ShuffleWindow(epoch, len(windows), tuple(groups[first:last]), start, start + rows))
                first, start = last, start + rows
        return windows

    def row_indices(self, window: ShuffleWindow, rank: RankInfo, step: int) -> np.ndarray:
        """Which of a window's rows, in file order, a rank learns from optimizer step `step` on, in order  # [N]."""
        permutation = np.random.default_rng([self.seed, window.epoch, window.number]).permutation(
            window.stop - window.start
        )
        position = np.arange(window.start, window.stop)  # in the epoch's sequence
        share, place = rank.share(self.batch_size), position % self.batch_size
        begun = window.epoch * self.steps_per_epoch + position // self.batch_size >= step
        whole = position < self.steps_per_epoch * self.batch_size
        return permutation[begun & whole & (share.start <= place) & (place < share.stop)]


def make_sampler(folder: str, batch_size: int, epochs: int, window_rows: int, seed: int) -> PairSampler:
    """The order of a fit on the folder's training pairs. Raises ValueError where they do not fill one batch."""
    system, path = file_system(folder)
    groups = []
    for file in sorted(pyarrow.dataset.dataset(path, filesystem=system).files):  # pyright: ignore[reportAttributeAccessIssue]
        parquet = pq.ParquetFile(file, filesystem=system)
        for index in range(parquet.num_row_groups):
            identity = PUBLISHED_IDENTITY if "image_w_sha256" in parquet.schema_arrow.names else IDENTITY
            rows = parquet.read_row_group(index, columns=list(identity)).filter(TRAINING)
            if rows.num_rows:
                content = hashlib.sha256(json.dumps(rows.to_pydict()).encode()).hexdigest()
                groups.append(RowGroup(file, index, rows.num_rows, content))
    if not groups:
        raise ValueError(f"{folder} holds no preference rows to train on: run `spatialt2i preferences` first")
    order = PairSampler(folder, tuple(groups), batch_size, epochs, window_rows, seed)
    if not order.steps_per_epoch:
        raise ValueError(f"reward.batch_size={batch_size} exceeds the {order.pairs} training pairs: lower it")
    return order


def rows_of_steps(order: PairSampler, rank: RankInfo, first: int) -> Iterator[list[dict[str, Any]]]:
    """A rank's rows of the optimizer steps `first`, `first` + 1, ... to the fit's end. Ray must be initialised.

    Windows are read ahead by Ray tasks. Ray Data's executor, which would do the same, schedules in a thread of the
    worker, and there takes about as much of its core as the small model's training.
    """
    epochs = range(first // order.steps_per_epoch, order.epochs)
    windows = (
        window for epoch in epochs for window in order.windows(epoch) if len(order.row_indices(window, rank, first))
    )
    share = rank.share(order.batch_size)
    size = share.stop - share.start
    ahead = deque(_read_remotely.remote(order, window, rank, first) for window in islice(windows, READ_AHEAD))
    rows: list[dict[str, Any]] = []
    while ahead:
        rows += ray.get(ahead.popleft()).to_pylist()
        ahead.extend(_read_remotely.remote(order, window, rank, first) for window in islice(windows, 1))
        whole = len(rows) - len(rows) % size
        yield from (rows[start : start + size] for start in range(0, whole, size))
        rows = rows[whole:]


def _read_window(order: PairSampler, window: ShuffleWindow, rank: RankInfo, first: int) -> pa.Table:
    """A rank's rows of a window, in the order of learning."""
    system, _ = file_system(order.folder)
    files = {path: pq.ParquetFile(path, filesystem=system) for path in {group.path for group in window.groups}}
    tables = []
    for group in window.groups:
        table = files[group.path].read_row_group(group.index, columns=[*COLUMNS, "split"])
        tables.append(table.filter(TRAINING).drop_columns(["split"]))
    return pa.concat_tables(tables).take(order.row_indices(window, rank, first))


_read_remotely = ray.remote(num_cpus=READ_CPUS, max_retries=3)(_read_window)
