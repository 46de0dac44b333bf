"""The sampler: every pair once per epoch, the same batches for any number of workers and after any interruption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.spatialscore.resize import ImageBounds
from conf import SettingsError, UserError
from pipelines.preferences.dataset.schema import SCHEMA
from pipelines.reward.locations import PairSource
from pipelines.reward.readers import WindowKey, read_group, rows_of_steps, start_readers
from pipelines.reward.sampler import PairSampler, RankInfo, RowGroup, make_sampler
from tests.support.pair_sources import ACCEPTED, PENDING, source_of

BOUNDS = ImageBounds(4096, 16)
GROUPS = tuple(RowGroup("", f"{i}.parquet", 0, 10 + i, "") for i in range(6))  # 75 rows


@dataclass(frozen=True)
class Taken:
    """A row that a step takes."""

    epoch: int
    window: int
    row: int


def _steps(sampler: PairSampler, ranks: int, first_step: int = 0) -> list[list[Taken]]:
    """The rows of each step, in the order of the ranks."""
    steps: list[list[Taken]] = [[] for _ in range(sampler.steps)]
    for rank in (RankInfo(r, ranks) for r in range(ranks)):
        share = rank.share(sampler.batch_size)
        taken = [
            Taken(window.epoch, window.number, int(row))
            for epoch in range(sampler.epochs)
            for window in sampler.windows(epoch)
            for row in sampler.row_indices(window, rank, first_step)
        ]
        size = share.stop - share.start
        assert len(taken) == size * (sampler.steps - first_step)
        for step in range(sampler.steps - first_step):
            steps[first_step + step] += taken[step * size : (step + 1) * size]
    return steps


@pytest.mark.parametrize("window_rows", [1, 25, 1000])
def test_any_number_of_workers_learns_the_same_batches(window_rows: int) -> None:
    sampler = PairSampler(source_of(""), GROUPS, batch_size=8, epochs=3, window_rows=window_rows, seed=5)
    one_worker = _steps(sampler, 1)
    assert (sampler.steps, len(one_worker[0])) == (27, 8)
    for ranks in (2, 3, 8):
        assert _steps(sampler, ranks) == one_worker
    for epoch in range(3):
        rows = [row for step in one_worker[epoch * 9 : (epoch + 1) * 9] for row in step]
        assert len(set(rows)) == 72, "no row twice; 3 of 75 are left over"
    first, second = ([(row.window, row.row) for row in one_worker[step]] for step in (0, 9))
    assert first != second, "another epoch has another order"
    assert _steps(sampler, 2, first_step=13)[13:] == one_worker[13:]


def test_a_window_shuffles_the_rows_of_several_files() -> None:
    sampler = PairSampler(source_of(""), GROUPS, batch_size=8, epochs=1, window_rows=25, seed=0)
    windows = sampler.windows(0)
    assert [w.stop - w.start >= 25 for w in windows[:-1]] == [True] * (len(windows) - 1)
    assert sorted(g.path for w in windows for g in w.groups) == [g.path for g in GROUPS]
    assert not np.array_equal(sampler.row_indices(windows[0], RankInfo(0, 1), 0), np.arange(24))


@pytest.mark.ray
def test_ray_actors_read_the_rows_of_a_rank_in_that_order(ray_cluster: None, tmp_path: Path) -> None:
    rows = [{"pair_id": f"{i:03d}", "split": "test" if i % 5 == 0 else "train", "review": ACCEPTED} for i in range(60)]
    for part in range(4):
        table = pa.Table.from_pylist(rows[part::4], schema=SCHEMA)
        pq.write_table(table, tmp_path / f"{part}.parquet", row_group_size=6)
    sampler = make_sampler(source_of(tmp_path), batch_size=8, epochs=2, window_rows=10, seed=1)
    assert (sampler.pairs, sampler.steps) == (48, 12)
    readers = start_readers(sampler, 1)
    by_rank = [list(rows_of_steps(readers, sampler, RankInfo(rank, 2), 0, BOUNDS)) for rank in (0, 1)]
    ids = [[[row.pair_id for row in step] for step in steps] for steps in by_rank]
    assert [len(steps) for steps in ids] == [12, 12]
    first_epoch = [i for steps in ids for step in steps[:6] for i in step]
    assert sorted(first_epoch) == [row["pair_id"] for row in rows if row["split"] == "train"]
    alone = list(rows_of_steps(readers, sampler, RankInfo(0, 1), 7, BOUNDS))  # resumed by another number of ranks
    assert [[row.pair_id for row in step] for step in alone] == [a + b for a, b in zip(*ids, strict=True)][7:]


def test_too_few_pairs_are_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `spatialt2i preferences build` first"):
        make_sampler(source_of(tmp_path / "absent"), 8, 1, 10, 0)
    pq.write_table(
        pa.Table.from_pylist([{"split": "train", "review": ACCEPTED}] * 3, schema=SCHEMA), tmp_path / "0.parquet"
    )
    with pytest.raises(SettingsError, match=r"batch_size=8 exceeds the 3 training pairs"):
        make_sampler(source_of(tmp_path), 8, 1, 10, 0)


def test_only_verified_rows_of_the_wanted_tiers_are_trained_on_and_no_group_that_another_folder_holds_out(
    tmp_path: Path,
) -> None:
    ordered = {**ACCEPTED, "tier": "ordered"}
    first = [("strict", "train", ACCEPTED, "g1"), ("ordered", "train", ordered, "g2"), ("test", "test", ACCEPTED, "g3")]
    first += [("pending", "train", PENDING, "g4"), ("rejected", "train", {**PENDING, "status": "rejected"}, "g5")]
    second = [("leak", "train", ACCEPTED, "g3"), ("other", "train", ACCEPTED, "g6")]
    for name, rows in (("a", first), ("b", second)):
        columns = ("pair_id", "split", "review", "group_id")
        table = pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows], schema=SCHEMA)
        (tmp_path / name).mkdir()
        pq.write_table(table, tmp_path / name / "0.parquet")

    def trained(source: PairSource) -> set[str]:
        sampler = make_sampler(source, batch_size=1, epochs=1, window_rows=100, seed=0)
        (window,) = sampler.windows(0)
        key = WindowKey(0, 0, 0, 1)
        groups = [read_group(sampler, window, group, key, BOUNDS) for group in range(len(window.groups))]
        return {row.pair_id for (rows,) in groups for row in rows}

    a, b = tmp_path / "a", tmp_path / "b"
    assert trained(source_of(a, b)) == {"strict", "ordered", "other"}
    assert trained(source_of(a, tiers=("strict",))) == {"strict"}
    assert trained(source_of(a, unreviewed=True)) == {"strict", "ordered", "pending"}
    with pytest.raises(UserError, match=r"1 of 5 pairs at .*a wait for review, so nobody has verified them"):
        source_of(b, a).require_verified()
    source_of(a, unreviewed=True).require_verified()
