"""Ray actors that read and decode the pairs of a fit, each row group once for all ranks.

    rank --window(key)--> PairReaders --read(key, group)--> GroupReader, one of `reward.readers`
    rank <-- references of its rows of each row group --

They reserve no CPU, because the workers of a fit may reserve all of them. Images arrive in the size in which the model
sees them, which is less than their files. A rank holds one window of pairs and the next one, whatever the number of
pairs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, cast

import numpy as np
import ray
from ray.actor import ActorHandle

from actors.spatialscore.resize import ImageBounds
from pipelines.reward.data import Pair, read_place
from pipelines.reward.row_groups import RowPlace, matching_rows, open_parquet
from pipelines.reward.sampler import PairSampler, RankInfo, ShuffleWindow
from pipelines.reward.unreadable import UnreadableRow

READ_AHEAD = 1
"""Windows that are read while the ranks learn one."""

Rows = Sequence[Pair | UnreadableRow]


@dataclass(frozen=True)
class WindowKey:
    """A window as a group of ranks reads it."""

    epoch: int
    number: int
    first_step: int
    ranks: int


def read_group(
    sampler: PairSampler, window: ShuffleWindow, group: int, key: WindowKey, bounds: ImageBounds
) -> list[list[Pair | UnreadableRow]]:
    """The rows of a row group for each rank, in the order of its steps. Every row is read and decoded once."""
    place = window.groups[group]
    _, numbers = matching_rows(open_parquet(place.folder, place.path), place.index, sampler.training)
    if len(numbers) != place.rows:
        raise RuntimeError(
            f"{place.path} has changed since the start of the fit: {len(numbers)} rows, not {place.rows}"
        )
    mine = [
        numbers[sampler.rows_of_group(window, group, RankInfo(rank, key.ranks), key.first_step)].tolist()
        for rank in range(key.ranks)
    ]
    wanted = tuple(sorted(chain.from_iterable(mine)))
    if not wanted:
        return [[] for _ in mine]
    # Prompts are checked by the rank, which has the tokenizer.
    decoded = read_place(RowPlace(place.folder, place.path, place.index, wanted), check=str, decode=bounds.decode)
    by_number = dict(zip(wanted, decoded, strict=True))
    return [[by_number[number] for number in rows] for rows in mine]


class GroupReader:
    """One reading process."""

    def __init__(self, sampler: PairSampler) -> None:
        self._sampler = sampler
        self._windows: dict[int, list[ShuffleWindow]] = {}

    def read(self, key: WindowKey, group: int, bounds: ImageBounds) -> Any:
        """See `read_group`. One object for each rank."""
        if key.epoch not in self._windows:
            self._windows = {key.epoch: self._sampler.windows(key.epoch)}
        rows = read_group(self._sampler, self._windows[key.epoch][key.number], group, key, bounds)
        return tuple(rows) if len(rows) > 1 else rows[0]


@dataclass
class _Window:
    """The references of a window: by row group, then by rank."""

    groups: list[list[ray.ObjectRef[Rows]]]
    taken: set[int] = field(default_factory=set[int])  # by these ranks


class PairReaders:
    """Gives each rank its rows, and lets every row group be read once for all of them."""

    def __init__(self, sampler: PairSampler, readers: int) -> None:
        self._sampler = sampler
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 3, "scheduling_strategy": "SPREAD"}
        actor_class: Any = ray.remote(GroupReader).options(**options)
        self._readers = [actor_class.remote(sampler) for _ in range(readers)]
        self._windows: dict[WindowKey, _Window] = {}
        self._submitted = 0

    def window(self, key: WindowKey, rank: int, bounds: ImageBounds) -> list[ray.ObjectRef[Rows]]:
        """References of a rank's rows, one for each row group. They are dropped here when every rank has asked."""
        current = (key.first_step, key.ranks)
        self._windows = {k: w for k, w in self._windows.items() if (k.first_step, k.ranks) == current}
        window = self._windows.get(key) or self._open(key, bounds)
        window.taken.add(rank)
        if len(window.taken) == key.ranks:
            del self._windows[key]
        return [parts[rank] for parts in window.groups]

    def _open(self, key: WindowKey, bounds: ImageBounds) -> _Window:
        """Starts the reading of a window."""
        groups: list[list[ray.ObjectRef[Rows]]] = []
        for group in range(len(self._sampler.windows(key.epoch)[key.number].groups)):
            reader = self._readers[self._submitted % len(self._readers)]
            self._submitted += 1
            parts = reader.read.options(num_returns=key.ranks).remote(key, group, bounds)
            groups.append(parts if key.ranks > 1 else [parts])
        self._windows[key] = _Window(groups)
        return self._windows[key]


def start_readers(sampler: PairSampler, readers: int) -> ActorHandle[Any]:
    """Starts PairReaders in the driver, which must keep the handle while the fit runs."""
    actor_class: Any = ray.remote(PairReaders).options(num_cpus=0, max_restarts=-1, max_task_retries=3)
    return actor_class.remote(sampler, readers)


def rows_of_steps(
    readers: ActorHandle[Any], sampler: PairSampler, rank: RankInfo, first_step: int, bounds: ImageBounds
) -> Iterator[Rows]:
    """A rank's rows of each optimizer step from `first_step` to the end of the fit, read ahead."""
    everyone = RankInfo(0, 1)
    windows = (
        window
        for epoch in range(first_step // sampler.steps_per_epoch, sampler.epochs)
        for window in sampler.windows(epoch)
        if len(sampler.row_indices(window, everyone, first_step))
    )

    def start(window: ShuffleWindow) -> tuple[ShuffleWindow, Any]:
        key = WindowKey(window.epoch, window.number, first_step, rank.ranks)
        return window, readers.window.remote(key, rank.rank, bounds)

    share = rank.share(sampler.batch_size)
    size = share.stop - share.start
    ahead = deque(start(window) for window in islice(windows, READ_AHEAD))
    rows: list[Pair | UnreadableRow] = []
    while ahead:
        window, references = ahead.popleft()
        groups = cast(list[Rows], ray.get(ray.get(references)))
        rows += _in_order(groups, window, sampler.row_indices(window, rank, first_step))
        del groups, references
        ahead.extend(start(window) for window in islice(windows, 1))
        complete = len(rows) - len(rows) % size
        for position in range(0, complete, size):
            yield rows[position : position + size]
        rows = rows[complete:]


def _in_order(groups: Sequence[Rows], window: ShuffleWindow, indices: np.ndarray) -> Iterator[Pair | UnreadableRow]:
    """The rows of all row groups, each in its own order, in the order of the window's row numbers `indices`."""
    of_group = np.searchsorted(window.firsts, indices, side="right") - 1
    each = [iter(rows) for rows in groups]
    return (next(each[group]) for group in of_group.tolist())
