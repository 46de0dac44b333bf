"""Uploads a folder to a repository on the Hugging Face Hub, after a look at what is there.

huggingface_hub repeats requests that fail for a moment and does not send again what has arrived, so the same command
resumes an upload that was cut.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from conf import UserError
from conf.push import PushSettings
from pipelines.push.artefacts import Artefact

GIT_ATTRIBUTES = ".gitattributes"
"""File that the Hub itself puts into each repository."""
_DIGESTED = 2**20  # bytes that are read at once


@dataclass(frozen=True)
class Remote:
    """What a repository holds."""

    private: bool
    files: Mapping[str, str]  # path -> digest of the content: SHA-256 if the file is in LFS, else Git's


@dataclass(frozen=True)
class Upload:
    """What would be sent."""

    artefact: Artefact
    repo: str
    files: Mapping[str, int]  # path -> bytes, of those that the repository lacks or has differently
    unchanged: int
    outdated: tuple[str, ...]
    """Files of the repository that would be deleted."""
    is_new: bool
    private: bool

    def __str__(self) -> str:
        """What is sent where, before it is sent."""
        visible = "private" if self.private else "PUBLIC"
        kind = f"{'new ' if self.is_new else ''}{visible} {self.artefact.repo_type} repository"
        there = f" ({self.unchanged} more are there already)" if self.unchanged else ""
        left = self.artefact.left_out()
        not_sent = f"; not sent, because spatialt2i did not write it: {', '.join(left[:3])}" if left else ""
        not_sent += f" and {len(left) - 3} more" if len(left) > 3 else ""
        return (
            f"push  {self.artefact.name}: {_counted(len(self.files))} of {_megabytes(sum(self.files.values()))}{there} "
            f"from {self.artefact.folder} to the {kind} {self.repo}{not_sent}"
        )


class Hub:
    """A Hub on which the user is logged in."""

    def __init__(self) -> None:
        """Raises UserError if there is no token."""
        from huggingface_hub import HfApi, get_token

        self._token = get_token()
        if not self._token:
            raise UserError("push needs a token for the Hugging Face Hub: log in with `hf auth login`, or set HF_TOKEN")
        self._api: Any = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=self._token)

    def plan(self, artefact: Artefact, cfg: PushSettings) -> Upload:
        """Compares a folder with the repository `push.repo`.

        Raises UserError if the repository holds other files, unless `push.replace` is set, if it is public although
        `push.private` is set, and if the Hub refuses or cannot be reached.
        """
        with self._explaining(cfg.repo):
            remote = self._look(cfg.repo, artefact.repo_type)
        there = remote.files if remote else {}
        if remote and cfg.private and not remote.private:
            raise UserError(
                f"{cfg.repo} is public: set push.private=false if everybody may read {artefact.name}, or choose "
                "another push.repo"
            )
        paths = artefact.files()
        same = {name for name, path in paths.items() if name in there and there[name] == _digest(path, there[name])}
        outdated = tuple(name for name in there if name not in paths and artefact.replaces(name))
        others = sorted(name for name in there if name not in same)
        if others and not cfg.replace:
            raise UserError(
                f"{cfg.repo} holds {_counted(len(others))} that {artefact.name} has not, or has differently, e.g. "
                f"{others[0]}: choose another push.repo, or set push.replace=true, which replaces files of an earlier "
                "upload and keeps all others"
            )
        sent = {name: path.stat().st_size for name, path in paths.items() if name not in same}
        private = remote.private if remote else cfg.private
        return Upload(artefact, cfg.repo, sent, len(same), outdated, remote is None, private)

    def send(self, upload: Upload) -> str:
        """Uploads, in one commit or several, and returns the address. Raises UserError if the Hub refuses."""
        artefact, repo = upload.artefact, upload.repo
        with self._explaining(repo):
            self._api.create_repo(repo, repo_type=artefact.repo_type, private=upload.private, exist_ok=True)
            if upload.files or upload.outdated:
                self._api.upload_folder(
                    repo_id=repo,
                    repo_type=artefact.repo_type,
                    folder_path=artefact.folder,
                    commit_message=artefact.name,
                    allow_patterns=[escape(name) for name in upload.files],
                    delete_patterns=[escape(name) for name in upload.outdated],
                )
            if artefact.tag:
                self._api.create_tag(repo, tag=artefact.tag, repo_type=artefact.repo_type, exist_ok=True)
        return f"{self._api.endpoint}/{'datasets/' if artefact.repo_type == 'dataset' else ''}{repo}"

    def _look(self, repo: str, repo_type: str) -> Remote | None:
        """What a repository holds; None if there is none that this user may see."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = self._api.repo_info(repo, repo_type=repo_type, files_metadata=True)
        except RepositoryNotFoundError as error:
            if error.response.status_code == 401:
                raise
            return None
        files = {each.rfilename: each.lfs.sha256 if each.lfs else each.blob_id for each in info.siblings or ()}
        return Remote(bool(info.private), {name: digest for name, digest in files.items() if name != GIT_ATTRIBUTES})

    @contextmanager
    def _explaining(self, repo: str) -> Generator[None]:
        """Turns what huggingface_hub raises into a UserError, without the token."""
        try:
            yield
        except Exception as error:  # the boundary to the Hub: classes of a broken connection differ by HTTP library
            causes: list[BaseException] = [error]  # the error of a single large file says nothing itself
            while (cause := causes[-1].__cause__) and cause not in causes:
                causes.append(cause)
            statuses = (getattr(getattr(each, "response", None), "status_code", None) for each in causes)
            status = next(filter(None, statuses), 0)
            fix = _FIXES.get(500 if status >= 500 else status, _OTHER)
            said = ": ".join(str(each) or type(each).__name__ for each in causes)
            reason = " ".join(said.split()).replace(self._token or "\0", "<token>")[:300]
            raise UserError(f"cannot push to {repo}: {fix}. What happened: {reason}") from error


_FIXES = {
    401: "the Hub does not accept the token: log in again with `hf auth login`, or correct HF_TOKEN",
    403: "the token may not write there: use one with write access to this repository, or choose another push.repo",
    409: "the repository was changed at the same time: start the command again",
    412: "the repository was changed at the same time: start the command again",
    413: "the Hub does not take files of this size: see its limits",
    429: "the Hub limits how much this account may send: wait some minutes and start the command again",
    500: "the Hub has a fault or is overloaded: start the command again later, which sends only what has not arrived",
}
_OTHER = (
    "the Hub cannot be reached or refuses: check the network and HF_ENDPOINT, and start the command again, which sends "
    "only what has not arrived"
)


def _digest(path: Path, like: str) -> str:
    """The digest of a file, of the kind of `like`: SHA-256 (64 digits), else the SHA-1 of a Git blob."""
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as stream:
        while block := stream.read(_DIGESTED):
            digest.update(block)
    return digest.hexdigest()


def _counted(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"
