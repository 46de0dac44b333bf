"""Checks that the location of a model can be loaded, before actors try it and fail with a traceback."""

from __future__ import annotations

import re
from pathlib import Path

from conf import Settings, SettingsError
from conf.flux import EMBEDDED
from pipelines.common.cluster_address import uses_private_cluster

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""owner/model on Hugging Face's hub."""


def check_model(settings: Settings, setting: str, location: str, first_file: str) -> None:
    """Raises SettingsError if a model location is neither a folder with `first_file` nor a hub id.

    It checks this machine's folders, so it does nothing on a cluster, whose nodes may have other folders.
    """
    if location == EMBEDDED or not uses_private_cluster(settings):
        return
    folder = Path(location)
    if folder.is_dir():
        if not (folder / first_file).is_file():
            raise SettingsError(
                f"{setting}={location} must be a folder with {first_file}, as save_pretrained writes it"
            )
    elif not HUB_ID.fullmatch(location):
        raise SettingsError(f"{setting}={location}: there is no such folder, and it is no hub id as owner/model")
