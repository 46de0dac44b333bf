"""The pairs of each optimizer step: a pure function of the seed, for any number of workers and interruptions.

An epoch is one sequence of the training pairs. The files' row groups are shuffled with (seed, epoch) and cut into
windows of about `window_rows` rows, and the rows of a window are permuted. Step n takes the next B rows of the epoch,
and rank r of W takes the rows [r B / W, (r + 1) B / W) of them, so any number of workers learns the same batches. Ray
tasks read the windows ahead, in order. Every rank reads the files of each window and keeps its own rows, which costs
far less than the training on them.
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
from conf import SettingsError, UserError
from pipelines.reward.data import COLUMNS
from pipelines.reward.locations import HELD_OUT, PairSource, open_pairs

IDENTITY = ("split", "prompt", "perturbed_prompt", "image_w.sha256", "image_l.sha256")
"""Columns whose content identifies a training row."""
PUBLISHED_IDENTITY = (*IDENTITY[:3], "image_w_sha256", "image_l_sha256")
"""The same columns in a published version."""
REVIEW = ("group_id", "review.status", "review.tier")
"""Columns that decide whether a row may be trained on."""
READ_CPUS = 0.25  # Ray CPUs of a task that reads files: it waits for them most of the time
READ_AHEAD = 2  # windows


@dataclass(frozen=True)
class RowGroup:
    """The training rows of one row group of a parquet file."""

    folder: str  # path or URI
    path: str  # inside the folder's file system
    index: int
    rows: int
    content: str  # digest of the rows' images and prompts, so that a fit on other rows is another fit


@dataclass(frozen=True)
class RankInfo:
    """One of `ranks` workers."""

    rank: int
    ranks: int

    def share(self, batch_size: int) -> slice:
        """The rows of a batch that this worker takes."""
        return slice(self.rank * batch_size // self.ranks, (self.rank + 1) * batch_size // self.ranks)


@dataclass(frozen=True)
class ShuffleWindow:
    """The rows [start, stop) of an epoch's sequence, which are read and shuffled together."""

    epoch: int
    number: int
    groups: tuple[RowGroup, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class PairSampler:
    """Which pairs each optimizer step of a fit takes."""

    source: PairSource
    groups: tuple[RowGroup, ...]
    batch_size: int  # pairs of an optimizer step, over all workers
    epochs: int
    window_rows: int
    seed: int
    held_out: tuple[str, ...] = ()  # prompt groups that another of several datasets holds out

    @property
    def training(self) -> pc.Expression:
        """The condition on rows that are trained on."""
        return _training(self.source, self.held_out)

    @property
    def pairs(self) -> int:
        """Pairs of the training split."""
        return sum(group.rows for group in self.groups)

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches of an epoch. The rows that are left over differ from epoch to epoch."""
        return self.pairs // self.batch_size

    @property
    def steps(self) -> int:
        """Optimizer steps of the fit."""
        return self.epochs * self.steps_per_epoch

    def windows(self, epoch: int) -> list[ShuffleWindow]:
        """The windows of an epoch, in order."""
        rng = np.random.default_rng([self.seed, epoch])
        groups = [self.groups[i] for i in rng.permutation(len(self.groups))]
        windows: list[ShuffleWindow] = []
        first, start = 0, 0
        for last in range(1, len(groups) + 1):
            rows = sum(group.rows for group in groups[first:last])
            if rows >= self.window_rows or last == len(groups):
                windows.append(ShuffleWindow(epoch, len(windows), tuple(groups[first:last]), start, start + rows))
                first, start = last, start + rows
        return windows

    def row_indices(self, window: ShuffleWindow, rank: RankInfo, first_step: int) -> np.ndarray:
        """The rows of a window that a rank takes from `first_step` on, in order  # [N], numbered as in the files."""
        rng = np.random.default_rng([self.seed, window.epoch, window.number])
        permutation = rng.permutation(window.stop - window.start)
        position = np.arange(window.start, window.stop)  # in the epoch's sequence
        in_batch = position % self.batch_size
        step = window.epoch * self.steps_per_epoch + position // self.batch_size
        complete = position < self.steps_per_epoch * self.batch_size
        share = rank.share(self.batch_size)
        mine = (share.start <= in_batch) & (in_batch < share.stop)
        return permutation[(step >= first_step) & complete & mine]


def make_sampler(source: PairSource, batch_size: int, epochs: int, window_rows: int, seed: int) -> PairSampler:
    """The sampler of a fit on the training pairs of some parquet folders.

    A prompt group that one of several folders holds out is not trained on. Raises UserError if there are no training
    pairs, SettingsError if they do not fill one batch.
    """
    held_out = _held_out_groups(source) if len(source.folders) > 1 else ()
    training = _training(source, held_out)
    groups = [group for folder in source.folders for group in _row_groups(folder, training)]
    if not groups:
        raise UserError(
            f"no preference pairs to train on at {source.name}, of tier {' or '.join(source.tiers)}: run `spatialt2i "
            "preferences build` first, or see reward.tiers"
        )
    sampler = PairSampler(source, tuple(groups), batch_size, epochs, window_rows, seed, held_out)
    if not sampler.steps_per_epoch:
        raise SettingsError(f"reward.batch_size={batch_size} exceeds the {sampler.pairs} training pairs: lower it")
    return sampler


def _training(source: PairSource, held_out: tuple[str, ...]) -> pc.Expression:
    rows = source.rows(("train",))
    return rows & ~pc.field("group_id").isin(list(held_out)) if held_out else rows


def _held_out_groups(source: PairSource) -> tuple[str, ...]:
    """The prompt groups of held-out rows, in order."""
    groups: set[str] = set()
    for folder in source.folders:
        rows = open_pairs(folder).to_table(columns=["group_id"], filter=pc.field("split").isin(list(HELD_OUT)))
        groups |= set(rows["group_id"].to_pylist())
    return tuple(sorted(groups))


def _row_groups(folder: str, training: pc.Expression) -> list[RowGroup]:
    """All row groups with training rows; none if the folder does not exist."""
    system, path = file_system(folder)
    try:
        files: list[str] = sorted(pyarrow.dataset.dataset(path, filesystem=system).files)  # pyright: ignore[reportAttributeAccessIssue]
    except FileNotFoundError:
        return []
    groups: list[RowGroup] = []
    for file in files:
        parquet = pq.ParquetFile(file, filesystem=system)
        identity = PUBLISHED_IDENTITY if "image_w_sha256" in parquet.schema_arrow.names else IDENTITY
        for index in range(parquet.num_row_groups):
            rows = parquet.read_row_group(index, columns=[*identity, *REVIEW]).filter(training)
            if rows.num_rows:
                content = hashlib.sha256(json.dumps(rows.drop_columns(["group_id", "review"]).to_pydict()).encode())
                groups.append(RowGroup(folder, file, index, rows.num_rows, content.hexdigest()))
    return groups


def rows_of_steps(sampler: PairSampler, rank: RankInfo, first_step: int) -> Iterator[list[dict[str, Any]]]:
    """A rank's rows of the optimizer steps from `first_step` to the end of the fit. Ray must be initialized.

    Ray tasks read windows ahead. Ray Data's executor could do the same, but it schedules in a thread of the worker, and
    takes about as much of the worker's core as the training of the small model.
    """
    epochs = range(first_step // sampler.steps_per_epoch, sampler.epochs)
    windows = (
        window
        for epoch in epochs
        for window in sampler.windows(epoch)
        if len(sampler.row_indices(window, rank, first_step))
    )
    share = rank.share(sampler.batch_size)
    size = share.stop - share.start

    def read(window: ShuffleWindow) -> ray.ObjectRef[pa.Table]:
        return _read_remotely.remote(sampler, window, rank, first_step)

    ahead = deque(read(window) for window in islice(windows, READ_AHEAD))
    rows: list[dict[str, Any]] = []
    while ahead:
        rows += ray.get(ahead.popleft()).to_pylist()
        ahead.extend(read(window) for window in islice(windows, 1))
        complete = len(rows) - len(rows) % size
        yield from (rows[start : start + size] for start in range(0, complete, size))
        rows = rows[complete:]


def read_window(sampler: PairSampler, window: ShuffleWindow, rank: RankInfo, first_step: int) -> pa.Table:
    """A rank's rows of a window, in the order of the optimizer steps."""
    systems = {folder: file_system(folder)[0] for folder in {group.folder for group in window.groups}}
    files = {
        (folder, path): pq.ParquetFile(path, filesystem=systems[folder])
        for folder, path in {(group.folder, group.path) for group in window.groups}
    }
    tables: list[pa.Table] = []
    for group in window.groups:
        file = files[group.folder, group.path]
        table = file.read_row_group(group.index, columns=[*COLUMNS, "split", "review"]).filter(sampler.training)
        tables.append(table.select(list(COLUMNS)))
    return pa.concat_tables(tables).take(sampler.row_indices(window, rank, first_step))


_read_remotely = ray.remote(num_cpus=READ_CPUS, max_retries=3)(read_window)
