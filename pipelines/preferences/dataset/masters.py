"""Where the images of a build are kept as they were generated. Imports nothing slow: the review page starts with it."""

from __future__ import annotations

import logging

from actors.files import join, read_file
from pipelines.preferences.row_values import Side


def master_location(masters: str, pair: str, side: Side) -> str:
    """The location of the master of one image of a pair: a thousand pairs share a folder."""
    return join(join(masters, pair[:-3]), f"{pair}-{side}.png")


def read_master(masters: str, pair: str, side: Side) -> bytes | None:
    """The master of one image of a pair; None if there is none, or, with a warning, if it cannot be read."""
    if not masters:
        return None
    try:
        return read_file(master_location(masters, pair, side))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ValueError: pyarrow does not know this kind of URI
        logging.warning("a master in %s cannot be read: %s", masters, error)
        return None
