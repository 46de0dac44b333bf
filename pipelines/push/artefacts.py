"""What each action of `push` uploads, and why it may refuse to. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from actors.folders import read_marker
from actors.json_files import JsonError, read_record
from actors.policy.lora_header import WEIGHT_NAME
from actors.spatialscore.config import BACKBONE_FOLDER, CONFIG_FILE, HEAD_FILE, SpatialScoreConfig
from conf import Settings, SettingsError, UserError
from pipelines.common.paths import published_data, run_paths, spatialscore_folder
from pipelines.policy.versions import RECORD, choose_version, read_export_record
from pipelines.preferences.dataset.verify import CHECKSUMS, read_sums, verify
from pipelines.reward.locations import count_waiting, open_pairs
from pipelines.reward.sanity_report import require_passed

CARD = "README.md"


@dataclass(frozen=True)
class Artefact:
    """A complete folder, and how the Hub keeps it."""

    name: str
    """What it is, for messages and the commit."""
    folder: Path
    repo_type: Literal["model", "dataset"]
    outdated: tuple[str, ...] = ()
    """Patterns of files of an earlier upload. Those that this one lacks are deleted with `push.replace`."""
    tag: str = ""
    """Tag of the commit."""
    written: frozenset[str] | None = None
    """The files that this program wrote, which alone are sent. None: no record of them, so all files are."""

    def files(self) -> dict[str, Path]:
        """Path in the repository -> the file, of all that are sent. Hidden files, records of this machine, are not.

        Raises UserError for a link to a file outside of the folder, which may be private.
        """
        found = {name: path for name, path in _visible(self.folder) if self.written is None or name in self.written}
        for name, path in found.items():
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise UserError(
                    f"{self.folder} must hold its files itself, but {name} is a link to {path.resolve()}: replace the "
                    "link by a copy, or remove it"
                )
        return found

    def left_out(self) -> list[str]:
        """Visible files of the folder that are not sent, because this program did not write them."""
        return [name for name, _ in _visible(self.folder) if self.written is not None and name not in self.written]

    def replaces(self, name: str) -> bool:
        """Whether a file of the repository that this folder lacks is of an earlier upload."""
        return any(fnmatchcase(name, pattern) for pattern in self.outdated)


def _visible(folder: Path) -> list[tuple[str, Path]]:
    """Relative path and path of each file of a folder but the hidden ones, in order."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    named = [(path.relative_to(folder), path) for path in paths]
    return [(str(name), path) for name, path in named if not any(part.startswith(".") for part in name.parts)]


def _recorded(folder: Path) -> frozenset[str] | None:
    """The files that the marker of a folder lists, and the card, which may be newer. None without a marker."""
    marker = read_marker(str(folder))
    return frozenset((*marker.files, CARD)) if marker and marker.files else None


def lora(settings: Settings) -> Artefact:
    """The exported policy, of the version that `export.version` names. Raises UserError unless it is complete."""
    paths = run_paths(settings, choose_version(settings))
    merged = settings.push.merged
    folder = paths.merged if merged else paths.export
    if not (folder / ("model_index.json" if merged else WEIGHT_NAME)).is_file() or not (folder / CARD).is_file():
        command = "spatialt2i policy export" + (" export.merged=true" if merged else "")
        raise UserError(f"no exported policy with its card at {folder}: run `{command}` first")
    record = read_export_record(paths.export)
    version = f" of policy version {record.policy_version}" if record else ""
    written = _recorded(folder) if merged else frozenset((CARD, WEIGHT_NAME, RECORD))
    return Artefact(f"{'merged model' if merged else 'LoRA'}{version}", folder, "model", written=written)


def spatialscore(settings: Settings) -> Artefact:
    """The SpatialScore of the run.

    Raises UserError unless it is complete, has passed its sanity checks (or `serving.skip_sanity_checks` is set), and
    can be loaded elsewhere: its backbone must be a name on the Hub, or part of the folder.
    """
    folder = run_paths(settings).reward_merged if settings.push.merged else spatialscore_folder(settings)
    command = "spatialt2i reward merge" if settings.push.merged else "spatialt2i reward train"
    if any(not (folder / name).is_file() for name in (CONFIG_FILE, HEAD_FILE, CARD)):
        raise UserError(f"no SpatialScore with its card at {folder}: run `{command}` first")
    require_passed(settings)
    try:
        config = read_record(str(folder / CONFIG_FILE), SpatialScoreConfig)
    except JsonError as error:
        raise UserError(f"{error}: run `{command}` again") from error
    if config.model != BACKBONE_FOLDER and Path(config.model).exists():
        raise UserError(
            f"{folder} is a LoRA on the backbone in {config.model}, a folder that others do not have: run `spatialt2i "
            "reward merge`, and push the result with push.merged=true"
        )
    name = "SpatialScore with its LoRA merged" if config.model == BACKBONE_FOLDER else "SpatialScore"
    outdated = (f"{BACKBONE_FOLDER}/*", "*.safetensors", "*.json")
    return Artefact(name, folder, "model", outdated, written=_recorded(folder))


def dataset(settings: Settings) -> Artefact:
    """The version `publish.version` that `preferences publish` wrote.

    Raises UserError unless its data is complete and unchanged, and if pairs wait for review, unless
    `publish.unreviewed` is set. Raises SettingsError for `push.merged`.
    """
    if settings.push.merged:
        raise SettingsError("push.merged=true is for push lora and push spatialscore: leave it out")
    cfg = settings.publish
    out = run_paths(settings).published if not cfg.out or "://" in cfg.out else Path(cfg.out).absolute()
    folder = out / cfg.version
    if not (folder / CHECKSUMS).is_file():
        raise UserError(
            f"no published version at {folder}: run `spatialt2i preferences publish` first, or set publish.version"
        )
    verify(str(folder), lambda line: None)
    waiting = count_waiting(open_pairs(published_data(str(folder))))
    if waiting and not cfg.unreviewed:
        raise UserError(
            f"{waiting} pairs at {folder} wait for review, so nobody has verified them: publish a version without them "
            "(publish.unreviewed=false), or set publish.unreviewed=true to push them as they are"
        )
    outdated = ("data/*", "pickapic/*", "hpdv3/*")
    written = frozenset((*(path for path, _ in read_sums(str(folder / CHECKSUMS))), CHECKSUMS))
    return Artefact(f"{cfg.name} {cfg.version}", folder, "dataset", outdated, cfg.version, written)
