"""Preference pairs of the scenes world, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.roles.base import ImagePair, PromptPair, RowSpec
from pipelines.preferences.roles.scenes import SceneGenerator, ScenePerturber, SceneReviewer, SceneWriter
from pipelines.preferences.row_values import PairKind
from tests.support.pair_sources import PENDING

LONG_PROMPT = (
    "A sunlit kitchen from the viewer's perspective: a copper kettle stands to the left of a wooden board, and three "
    "lemons lie on the wooden board. A glass jar is behind the copper kettle, a striped towel hangs above the glass "
    "jar, and a small radio is to the right of the wooden board. A blue vase with tulips stands near the small radio, "
    "a stack of books lies below the vase, a cat sits in front of the books, and a red bowl is to the left of the cat. "
    "A window is above the sink, the sink is behind the red bowl, and a chair is in front of the table."
)
LONG_RELATIONS = (
    ("copper kettle", "to the left of", "wooden board"),
    ("three lemons", "on", "wooden board"),
    ("glass jar", "behind", "copper kettle"),
    ("striped towel", "above", "glass jar"),
    ("small radio", "to the right of", "wooden board"),
    ("blue vase with tulips", "near", "small radio"),
    ("stack of books", "below", "blue vase with tulips"),
    ("cat", "in front of", "stack of books"),
    ("red bowl", "to the left of", "cat"),
    ("window", "above", "sink"),
    ("sink", "behind", "red bowl"),
    ("chair", "in front of", "table"),
)
"""The relations of LONG_PROMPT: 14 objects, 12 relations."""


def write_long_pairs(folder: Path, count: int) -> None:
    """Writes pairs with LONG_PROMPT that wait for review. Their images are of other prompts."""
    write_scene_pairs(folder, count)
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        relations = [dict(zip(("subject", "relation", "object"), one, strict=True)) for one in LONG_RELATIONS]
        edit = {"kind": "flip", "from": " ".join(LONG_RELATIONS[0]), "to": "copper kettle to the right of wooden board"}
        change = {"prompt": LONG_PROMPT, "relations": relations, "perturbations": [edit], "n_perturb": 1}
        rows = [{**row, **change, "review": PENDING} for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def scene_prompts(specs: Sequence[RowSpec], single_edit_fraction: float = 0.5) -> list[PromptPair]:
    """Written and perturbed prompts of the rows."""
    return ScenePerturber(single_edit_fraction).perturb(SceneWriter().write(specs))


def scene_pairs(specs: Sequence[RowSpec]) -> list[ImagePair]:
    """Rendered pairs of the rows."""
    return SceneGenerator().generate(scene_prompts(specs))


def write_scene_pairs(folder: Path, count: int, kind: PairKind = "perturbed", first: int = 0) -> None:
    """Writes rows `first` to `first + count - 1` as parquet: every fifth row to the split test, the others to train."""
    pairs = scene_pairs([RowSpec(i, kind, i) for i in range(first, first + count)])
    splits = ["test" if i % 5 == 0 else "train" for i in range(count)]
    table = to_table(pairs, SceneReviewer().review(pairs), splits, "test")
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        rows = table.filter([one == split for one in splits])
        pq.write_table(rows, folder / f"{split}-{first:05d}.parquet", row_group_size=4)
