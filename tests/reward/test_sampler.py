"""The order of learning: every pair once an epoch, the same on any number of workers and after any interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.preferences.dataset.schema import SCHEMA
from pipelines.reward.sampler import PairSampler, RankInfo, RowGroup, make_sampler, rows_of_steps

GROUPS = tuple(RowGroup(f"{i}.parquet", 0, 10 + i, "") for i in range(6))  # 75 rows


def _steps(order: PairSampler, ranks: int, first: int = 0) -> list[list[tuple[RowGroup, ...]]]:
    """What each step learns from, as (window, row) in the order of the ranks."""
    seen: list[list] = [[] for _ in range(order.steps)]
    for rank in (RankInfo(r, ranks) for r in range(ranks)):
        share = rank.share(order.batch_size)
        mine = [
            (window.epoch, window.number, int(place))
            for epoch in range(order.epochs)
            for window in order.windows(epoch)
            for place in order.row_indices(window, rank, first)
        ]
        size = share.stop - share.start
        assert len(mine) == size * (order.steps - first)
        for step in range(order.steps - first):
            seen[first + step] += mine[step * size : (step + 1) * size]
    return seen


@pytest.mark.parametrize("window_rows", [1, 25, 1000])
def test_every_number_of_workers_learns_the_same_batches(window_rows: int) -> None:
    order = PairSampler("", GROUPS, batch_size=8, epochs=3, window_rows=window_rows, seed=5)
    alone = _steps(order, 1)
    assert (order.steps, len(alone[0])) == (27, 8)
    for ranks in (2, 3, 8):
        assert _steps(order, ranks) == alone
    for epoch in range(3):
        places = [place for step in alone[epoch * 9 : (epoch + 1) * 9] for place in step]
        assert len(set(places)) == 72  # nothing twice; 3 of 75 are left over
    assert [p[1:] for p in alone[0]] != [p[1:] for p in alone[9]]  # another order in another epoch
    assert _steps(order, 2, first=13)[13:] == alone[13:]


def test_a_window_mixes_the_rows_of_several_files() -> None:
    order = PairSampler("", GROUPS, batch_size=8, epochs=1, window_rows=25, seed=0)
    windows = order.windows(0)
    assert [w.stop - w.start >= 25 for w in windows[:-1]] == [True] * (len(windows) - 1)
    assert sorted(g.path for w in windows for g in w.groups) == [g.path for g in GROUPS]
    assert not np.array_equal(order.row_indices(windows[0], RankInfo(0, 1), 0), np.arange(24))


@pytest.mark.ray
def test_ray_tasks_stream_a_ranks_rows_in_that_order(ray_cluster: None, tmp_path: Path) -> None:
    rows = [{"pair_id": f"{i:03d}", "split": "test" if i % 5 == 0 else "train"} for i in range(60)]
    for part in range(4):
        table = pa.Table.from_pylist(rows[part::4], schema=SCHEMA)
        pq.write_table(table, tmp_path / f"{part}.parquet", row_group_size=6)
    order = make_sampler(str(tmp_path), batch_size=8, epochs=2, window_rows=10, seed=1)
    assert (order.pairs, order.steps) == (48, 12)
    whole = [list(rows_of_steps(order, RankInfo(rank, 2), 0)) for rank in (0, 1)]
    ids = [[[row["pair_id"] for row in step] for step in one] for one in whole]
    assert [len(one) for one in ids] == [12, 12]
    first_epoch = [i for one in ids for step in one[:6] for i in step]
    assert sorted(first_epoch) == [row["pair_id"] for row in rows if row["split"] == "train"]
    later = [[row["pair_id"] for row in step] for step in rows_of_steps(order, RankInfo(1, 2), 7)]
    assert later == ids[1][7:]


def test_too_few_pairs_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"split": "train"}] * 3, schema=SCHEMA), tmp_path / "0.parquet")
    with pytest.raises(ValueError, match=r"batch_size=8 exceeds the 3 training pairs"):
        make_sampler(str(tmp_path), 8, 1, 10, 0)
