"""The pairs of each optimizer step: a pure function of the seed, for any number of workers and interruptions.

An epoch is one sequence of the training pairs. The files' row groups are shuffled with (seed, epoch) and cut into
windows of about `window_rows` rows, and the rows of a window are permuted. Step n takes the next B rows of the epoch,
and rank r of W takes the rows [r B / W, (r + 1) B / W) of them, so any number of workers learns the same batches.
`readers.py` reads them. Imports no Ray.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import pyarrow.compute as pc

from conf import SettingsError, UserError
from pipelines.common.map_files import map_files
from pipelines.reward.locations import HELD_OUT, PairSource, open_pairs
from pipelines.reward.row_groups import open_parquet, parquet_files

IDENTITY = ("split", "prompt", "perturbed_prompt", "image_w.sha256", "image_l.sha256")
"""Columns whose content identifies a training row."""
PUBLISHED_IDENTITY = (*IDENTITY[:3], "image_w_sha256", "image_l_sha256")
"""The same columns in a published version."""
REVIEW = ("group_id", "review.status", "review.tier")
"""Columns that decide whether a row may be trained on."""


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

    @property
    def firsts(self) -> np.ndarray:
        """The window's number of the first row of each row group, and the number of its rows  # [groups + 1]."""
        return np.cumsum([0, *(group.rows for group in self.groups)])


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

    def rows_of_group(self, window: ShuffleWindow, group: int, rank: RankInfo, first_step: int) -> np.ndarray:
        """The training rows of one row group that a rank takes, in the order of its steps  # numbered in the group."""
        first, stop = window.firsts[group : group + 2]
        rows = self.row_indices(window, rank, first_step)
        return rows[(first <= rows) & (rows < stop)] - first


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
    try:
        files = parquet_files(folder)
    except FileNotFoundError:
        return []
    return list(chain.from_iterable(map_files(partial(_row_groups_of_file, folder, training=training), files)))


def _row_groups_of_file(folder: str, file: str, training: pc.Expression) -> list[RowGroup]:
    parquet, groups = open_parquet(folder, file), list[RowGroup]()
    identity = PUBLISHED_IDENTITY if "image_w_sha256" in parquet.schema_arrow.names else IDENTITY
    for index in range(parquet.num_row_groups):
        rows = parquet.read_row_group(index, columns=[*identity, *REVIEW]).filter(training)
        if rows.num_rows:
            content = hashlib.sha256(json.dumps(rows.drop_columns(["group_id", "review"]).to_pydict()).encode())
            groups.append(RowGroup(folder, file, index, rows.num_rows, content.hexdigest()))
    return groups
