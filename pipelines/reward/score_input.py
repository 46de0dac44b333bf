"""The input of `reward score`: a file of prompts and a folder of images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from actors.files import exists, is_folder, read_file
from conf import UserError

_LINE_FORMAT = 'a line must be {"image": "file name in the folder", "prompt": "text"}'
_USAGE = "spatialt2i reward score prompts.jsonl images/"


@dataclass(frozen=True)
class ScoreRequest:
    """An image of the folder and its prompt."""

    image: str  # path inside the folder
    prompt: str


def read_requests(location: str) -> list[ScoreRequest]:
    """Reads a JSON Lines file of images and prompts. Blank lines and other fields are skipped.

    Raises UserError, with the line's number, if the file is missing or empty, or if a line is invalid.
    """
    if not location or not exists(location):
        raise UserError(f"no prompts file at {location!r}: write {_USAGE}; {_LINE_FORMAT}")
    requests: list[ScoreRequest] = []
    for number, line in enumerate(read_file(location).decode().splitlines(), start=1):
        if line.strip():
            requests.append(_parse(line, f"{location}, line {number}"))
    if not requests:
        raise UserError(f"{location} is empty: {_LINE_FORMAT}")
    return requests


def image_folder(location: str) -> str:
    """The image folder as workers find it: a URI or an absolute path. Raises UserError if it does not exist."""
    if not location or not is_folder(location):
        raise UserError(f"no image folder at {location!r}: write {_USAGE}")
    return location if "://" in location else str(Path(location).absolute())


def _parse(line: str, place: str) -> ScoreRequest:
    try:
        row = json.loads(line)
        image, prompt = row["image"], row["prompt"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{place}: {_LINE_FORMAT}, got {line[:200]}") from None
    if not isinstance(image, str) or not isinstance(prompt, str) or not image:
        raise UserError(f"{place}: {_LINE_FORMAT}, got {line[:200]}")
    return ScoreRequest(image, prompt)
