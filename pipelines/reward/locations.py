"""Which preference pairs stage 2 uses: where they are, and which of their rows count as verified.

A row is verified if its review accepted the pair: annotators, or the exact checker of the scenes world. Imports neither
torch nor Ray, so that a mistake is answered at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.compute as pc
import pyarrow.dataset

from actors.files import file_system
from conf import UserError
from conf.settings import Settings
from pipelines.common.paths import pairs_locations

WAITING = ("pending", "disputed")
"""Review statuses of pairs that people have not decided."""
HELD_OUT = ("test", "benchmark")
"""Splits that are never trained on."""


@dataclass(frozen=True)
class PairSource:
    """The folders of the pairs, and the rows that may be used."""

    folders: tuple[str, ...]  # paths or URIs
    tiers: tuple[str, ...]
    unreviewed: bool  # also use rows that wait for review

    @property
    def name(self) -> str:
        """The folders, for a message."""
        return ", ".join(self.folders)

    def rows(self, splits: Sequence[str]) -> pc.Expression:
        """The condition on rows of these splits that may be used."""
        status = pc.field("review", "status")
        usable = (status == "accepted") & pc.field("review", "tier").isin(list(self.tiers))
        if self.unreviewed:
            usable = usable | (status == "pending")
        return pc.field("split").isin(list(splits)) & usable

    def require_verified(self, columns: Sequence[str] = ()) -> None:
        """Raises UserError, with a fix, unless every folder holds pairs with these columns that may be used.

        Rows that wait for review are an error, too, unless `unreviewed`.
        """
        for folder in self.folders:
            dataset = open_pairs(folder, columns)
            waiting = 0 if self.unreviewed else count_waiting(dataset)
            if waiting:
                raise UserError(
                    f"{waiting} of {dataset.count_rows()} pairs at {folder} wait for review, so nobody has verified "
                    "them: run `spatialt2i preferences review` and `preferences publish`, and set reward.pairs to the "
                    "published version. reward.unreviewed=true uses them as they are"
                )


def pair_source(settings: Settings) -> PairSource:
    """The pairs of the settings."""
    reward = settings.reward
    return PairSource(pairs_locations(settings), reward.tiers, reward.unreviewed)


def open_pairs(folder: str, columns: Sequence[str] = ()) -> pyarrow.dataset.Dataset:
    """The pairs in a parquet folder.

    Raises UserError, with a fix, if the folder does not exist or has no file, or if the files are damaged or hold no
    pairs.
    """
    system, path = file_system(folder)
    try:
        dataset = pyarrow.dataset.dataset(path, filesystem=system)
    except FileNotFoundError:
        raise UserError(f"no preference pairs at {folder}: run `spatialt2i preferences build` first") from None
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"the pairs at {folder} cannot be read, because a file is damaged: {error}") from error
    if "split" not in dataset.schema.names:  # an empty folder
        raise UserError(f"no preference pairs at {folder}: run `spatialt2i preferences build` first")
    if missing := [name for name in (*columns, "review") if name not in dataset.schema.names]:
        raise UserError(
            f"the files of {folder} must hold preference pairs, got no column {', '.join(missing)}: see "
            "docs/preferences.md for the columns"
        )
    if "tier" not in [field.name for field in dataset.schema.field("review").type]:
        raise UserError(
            f"the reviews at {folder} must have a tier, got those of an older version: build or publish the pairs again"
        )
    return dataset


def has_incomplete_images(source: PairSource) -> bool:
    """Whether training pairs hold losers with other objects than the prompt names: corrupted or generated ones."""
    condition = source.rows(("train",)) & pc.field("kind").isin(["corrupted", "generated"])
    return any(open_pairs(folder).count_rows(filter=condition) for folder in source.folders)


def count_waiting(dataset: pyarrow.dataset.Dataset) -> int:
    """Number of pairs that wait for review."""
    return dataset.count_rows(filter=pc.field("review", "status").isin(list(WAITING)))
