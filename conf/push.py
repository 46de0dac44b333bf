"""`push`: uploads the LoRA, the SpatialScore or the dataset of a run to the Hugging Face Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from conf.errors import SettingsError
from conf.rules import Section

_NAME = r"(?!\S*(?:--|\.\.))[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
"""The Hub refuses names with -- or .., and a - or . at an end."""


@dataclass(frozen=True)
class PushSettings(Section):
    """`push`: a repository on the Hugging Face Hub. The token is that of `hf auth login`, or in HF_TOKEN."""

    section: ClassVar[str] = "push"

    repo: str = ""
    """Repository, OWNER/NAME. It is created if there is none. `repo=` is short for `push.repo=`."""

    private: bool = True
    """Create the repository private. Read the terms of models and generators before you make it public."""

    replace: bool = False
    """Replace files of the repository that differ from those that are uploaded. Its history keeps them."""

    merged: bool = False
    """Upload the model with its LoRA merged, as `policy export export.merged=true` or `reward merge` wrote it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.repo and (not re.fullmatch(f"{_NAME}/{_NAME}", self.repo) or self.repo.endswith(".git")):
            raise SettingsError(
                "push.repo must read OWNER/NAME, of letters, digits and single - . _ inside, without .git, got "
                f"{self.repo!r}: write e.g. repo=me/my-lora"
            )
