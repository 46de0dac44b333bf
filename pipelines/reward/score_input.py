"""The input of `reward score`: a file of prompts and a folder of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.files import is_folder
from actors.json_lines import Row, read_rows
from conf import UserError

_LINE_FORMAT = 'a line must be {"image": "file name in the folder", "prompt": "text"}'
_USAGE = "spatialt2i reward score prompts.jsonl images/"


@dataclass(frozen=True)
class ScoreRequest:
    """An image of the folder and its prompt."""

    image: str  # path inside the folder
    prompt: str


def read_requests(location: str) -> list[ScoreRequest]:
    """Reads a JSON Lines file of images and prompts, as `json_lines` defines it. Other fields are skipped.

    Raises UserError, with the line's number, if the file is missing or empty, or if a line is invalid. A prompt that
    cannot be scored is no invalid line: it becomes a row with an error.
    """
    if not location:
        raise UserError(f"reward score needs a file of prompts, got none: write {_USAGE}; {_LINE_FORMAT}")
    requests = [_request_of(row) for row in read_rows(location, _LINE_FORMAT)]
    if not requests:
        raise UserError(f"{location} is empty: {_LINE_FORMAT}")
    return requests


def image_folder(location: str) -> str:
    """The image folder as workers find it: a URI or an absolute path. Raises UserError if it does not exist."""
    if not location or not is_folder(location):
        raise UserError(f"no image folder at {location!r}: write {_USAGE}")
    return location if "://" in location else str(Path(location).absolute())


def _request_of(row: Row) -> ScoreRequest:
    image, prompt = row.values.get("image"), row.values.get("prompt")
    if not isinstance(image, str) or not isinstance(prompt, str) or not image:
        raise UserError(f"{row.place}: {_LINE_FORMAT}, got {row.values!r:.200}")
    return ScoreRequest(image, prompt)
