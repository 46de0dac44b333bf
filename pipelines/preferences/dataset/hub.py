"""Uploads a published version to the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from conf import UserError
from conf.review import PublishSettings
from pipelines.preferences.dataset.verify import CHECKSUMS

_OLDER_FILES = ["data/*", "pickapic/*", "hpdv3/*", CHECKSUMS]
"""Files of an earlier version that a later one replaces, in the same commit."""


def push_to_hub(folder: Path, cfg: PublishSettings) -> str:
    """Uploads the folder of a version to the dataset repository `publish.hub`, tags it, and returns its address.

    The repository is created, private unless `publish.hub_private` is false. Files that an interrupted upload has sent
    are not sent again. The token is that of `hf auth login`, or in HF_TOKEN. Raises UserError if the Hub refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        api.create_repo(cfg.hub, repo_type="dataset", private=cfg.hub_private, exist_ok=True)
        api.upload_folder(
            repo_id=cfg.hub,
            repo_type="dataset",
            folder_path=folder,
            commit_message=f"{cfg.name} {cfg.version}",
            delete_patterns=_OLDER_FILES,
        )
        api.create_tag(cfg.hub, tag=cfg.version, repo_type="dataset", exist_ok=True)
    except Exception as error:  # its HTTP library, and so the class of a broken connection, differs by version
        reason = " ".join(str(error).split())
        raise UserError(
            f"{folder} was written, but cannot be uploaded to {cfg.hub}, got: {reason}: log in with `hf auth login` or "
            "set HF_TOKEN, check publish.hub, and start the command again"
        ) from error
    return f"{api.endpoint}/datasets/{cfg.hub}"
