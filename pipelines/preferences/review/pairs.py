"""The dataset under review: its pairs as annotators see them, and its images, one at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from conf import UserError
from pipelines.preferences.claims import ClaimRule, objects_of, rule_of
from pipelines.preferences.review.doubts import Doubts
from pipelines.preferences.row_values import ReviewStatus, Side

SIDES: tuple[Side, Side] = ("w", "l")
Relation = tuple[str, str, str]
"""(subject, relation, object). `actors.types.Relation` would import torch and delay the page."""

WHOLE_PROMPT = "The image shows the prompt"
"""The only claim about an image whose prompt has no known relations."""

_COLUMNS = ("pair_id", "kind", "prompt", "relations", "perturbations", "n_perturb", "review")
_CHECK = "image_check"  # sets of earlier versions lack this column
_CACHED_GROUPS = 8  # row groups whose images stay in memory


@dataclass(frozen=True)
class ReviewPair:
    """A pair with its claims: first its objects, then its relations."""

    pair_id: str
    prompt: str
    relations: tuple[Relation, ...]
    rule: ClaimRule
    gold: bool  # its truth is known exactly
    status: ReviewStatus  # in the row's own review
    doubts: Doubts  # of the check of images

    @property
    def claims(self) -> tuple[tuple[str, ...], ...]:
        """The claims about each image: (object,), or (subject, relation, object)."""
        return tuple((name,) for name in objects_of(self.relations)) + self.relations or ((WHOLE_PROMPT,),)


def pair_files(folder: Path) -> list[Path]:
    """The parquet files of a folder of pairs, in order. Raises UserError if there are none."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise UserError(f"no pairs in {folder}: run `spatialt2i preferences build` first")
    return files


class PairSet:
    """The pairs of a folder of parquet files. Texts are in memory; an image is read when it is requested."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError if the folder holds no pairs, or a file of other content."""
        self._files = pair_files(folder)
        texts = (_read_texts(path) for path in self._files)
        self._texts = pa.concat_tables(texts, promote_options="default")
        self._rows: dict[str, int] = {name: row for row, name in enumerate(self._texts["pair_id"].to_pylist())}
        self._groups = _row_groups(self._files)
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, pair_id: str) -> bool:
        return pair_id in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> list[str]:
        """The ids of all pairs, in the order of the files."""
        return list(self._rows)

    def pair(self, pair_id: str) -> ReviewPair:
        """Raises KeyError if the dataset has no such pair."""
        return _review_pair(self._texts.slice(self._rows[pair_id], 1).to_pylist()[0])

    def pairs(self) -> list[ReviewPair]:
        """All pairs, in the order of the files."""
        return [_review_pair(row) for row in self._texts.to_pylist()]

    def image(self, pair_id: str, side: Side) -> bytes:
        """The image file of one side. Raises KeyError if the dataset has no such pair, or the pair no such image."""
        row = self._rows[pair_id]
        number = max(i for i, group in enumerate(self._groups) if group.start <= row)
        with self._lock:
            table = self._cache.get(number)
            if table is None:
                group = self._groups[number]
                columns = [f"image_{one}.bytes" for one in SIDES]
                table = pq.ParquetFile(group.path).read_row_group(group.index, columns=columns)
                self._cache[number] = table
            self._cache.move_to_end(number)
            while len(self._cache) > _CACHED_GROUPS:
                self._cache.popitem(last=False)
        image = table[f"image_{side}"][row - self._groups[number].start].as_py()
        if not image or not image["bytes"]:
            raise KeyError(f"{pair_id} has no image_{side}")
        return image["bytes"]


@dataclass(frozen=True)
class _RowGroup:
    path: Path
    index: int  # in the file
    start: int  # number of its first row in the whole dataset


def _read_texts(path: Path) -> pa.Table:
    """The columns of one file that are not images. Raises UserError if it does not hold pairs."""
    try:
        names = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name for name in (*_COLUMNS, _CHECK) if name in names])
        missing = [name for name in (*_COLUMNS, "image_w", "image_l") if name not in names]
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} must be a parquet file of pairs, got: {error}: build or copy it again") from error
    if missing or table["pair_id"].null_count:
        problem = f"no column {', '.join(missing)}" if missing else "rows without a pair_id"
        raise UserError(f"{path} must hold preference pairs, got {problem}: see docs/preferences.md for the columns")
    return table


def _row_groups(files: Sequence[Path]) -> list[_RowGroup]:
    groups: list[_RowGroup] = []
    start = 0
    for path in files:
        metadata = pq.read_metadata(path)
        for index in range(metadata.num_row_groups):
            groups.append(_RowGroup(path, index, start))
            start += metadata.row_group(index).num_rows
    return groups


def _review_pair(row: dict[str, Any]) -> ReviewPair:
    relations = tuple((one["subject"], one["relation"], one["object"]) for one in row["relations"] or ())
    rule = rule_of(row["kind"], relations, (edit["from"] for edit in row["perturbations"]), row["n_perturb"])
    return ReviewPair(
        pair_id=row["pair_id"],
        prompt=row["prompt"],
        relations=relations,
        rule=rule,
        gold=row["review"]["gold"],
        status=row["review"]["status"],
        doubts=Doubts.of(rule, row.get(_CHECK)),
    )
