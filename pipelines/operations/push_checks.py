"""What the actions of `push` need, checked before they start. See `pipelines.operations.checks`."""

from __future__ import annotations

from conf import Settings, SettingsError


def lora(settings: Settings) -> None:
    """`push lora`: a repository's name, and an exported policy."""
    from pipelines.push import artefacts

    _require_repo(settings)
    artefacts.lora(settings)


def spatialscore(settings: Settings) -> None:
    """`push spatialscore`: a repository's name, and a SpatialScore that others can load."""
    from pipelines.push import artefacts

    _require_repo(settings)
    artefacts.spatialscore(settings)


def dataset(settings: Settings) -> None:
    """`push dataset`: a repository's name, and a published version. The command itself reads all of its data."""
    _require_repo(settings)


def _require_repo(settings: Settings) -> None:
    if not settings.push.repo:
        raise SettingsError("push needs the repository: add repo=OWNER/NAME, e.g. repo=me/my-lora")
