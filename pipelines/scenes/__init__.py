"""The embedded world: scenes of coloured shapes whose spatial truth is known exactly."""

from pathlib import Path

CHECKPOINTS = Path(__file__).parent / "checkpoints"


def checkpoints_dir(name: str) -> Path:
    """The shipped tiny checkpoint `flux` or `qwen2_5_vl`. Raises FileNotFoundError, with the mend, if absent."""
    path = CHECKPOINTS / name
    if not path.is_dir():
        raise FileNotFoundError(f"no shipped checkpoint {name!r} beside {__name__}: run `spatialt2i scenes pretrain`")
    return path
