"""The embedded world: scenes of coloured shapes. An exact checker reads spatial relations from pixels."""

from pathlib import Path

from conf import UserError

CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""Folder of the shipped tiny checkpoints."""


def checkpoints_dir(name: str) -> Path:
    """Returns the folder of a shipped checkpoint: `flux`, `qwen2_5_vl` or a part such as `flux/vae`.

    Raises UserError if it is absent.
    """
    path = CHECKPOINTS / name
    if not path.is_dir():
        raise UserError(
            f"the shipped checkpoint {name!r} is missing from {CHECKPOINTS}: restore the folder, or make it with "
            "`spatialt2i scenes pretrain`"
        )
    return path
