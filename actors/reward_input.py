"""What every reward accepts: the one list of checks of its prompts and images.

The HTTP service, `reward score`, the readers of prompt files and the rewards themselves use it, so that an input which
a reward would refuse is refused where it enters, with the same reason. Files of images are checked by `actors.images`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from actors.images import check_aspect

MAX_PROMPT_CHARACTERS = 4000
"""Characters of a prompt at most."""

_INVISIBLE = ("Z", "C")  # first letters of the Unicode categories of white space, format and control characters


class InputError(ValueError):
    """A reward cannot score this input, whoever asks. The message tells why, in words for a user."""


def check_prompt(prompt: str) -> None:
    """Raises InputError for a prompt that is blank or too long, or that holds characters which are no text."""
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise InputError(f"a prompt must have at most {MAX_PROMPT_CHARACTERS} characters, got {len(prompt)}")
    for position, character in enumerate(prompt):
        category = unicodedata.category(character)
        if category == "Cs" or (category == "Cc" and not character.isspace()):
            name = "half of a surrogate pair" if category == "Cs" else "a control character"
            raise InputError(
                f"a prompt must be plain text, got {name}, U+{ord(character):04X}, at position {position}: remove it"
            )
    if all(unicodedata.category(character).startswith(_INVISIBLE) for character in prompt):
        content = f"{len(prompt)} characters, none of them visible" if prompt else "none"
        raise InputError(f"a prompt must not be blank, got {content}: an image is scored under its text")


def check_pixels(image: np.ndarray) -> None:
    """Raises InputError for pixels that are not uint8 [H, W, 3], and ImageError, a ValueError, for unfit sides."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"an image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    check_aspect(image.shape[1], image.shape[0])


def check_inputs(images: np.ndarray | Sequence[np.ndarray], prompts: Sequence[str]) -> None:
    """Raises InputError, or another ValueError, unless every image has its prompt and all of them can be scored."""
    if isinstance(prompts, str):
        raise InputError("prompts must be a list of texts, one for each image, got one text")
    if len(images) != len(prompts):
        raise InputError(f"every image needs its prompt, got {len(images)} images and {len(prompts)} prompts")
    for image in images:
        check_pixels(image)
    for prompt in prompts:
        check_prompt(prompt)
