"""The body of POST /score, from bytes to checked images and prompts. Decoding takes long: call it in a thread.

{"images": ["<base64 PNG, JPEG or WebP>", ...], "prompts": ["a red circle left of a blue square", ...]}

or multipart/form-data with files `images` and fields `prompts`. Never pickle.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from actors.images import ImageError, ImageTooLargeError, decode_image, pixel_count
from actors.reward_input import MAX_PROMPT_CHARACTERS, InputError, check_prompt
from conf.rewards import MAX_REQUEST_IMAGES

MAX_PIXELS: Final = 16 * 10**6
"""Pixels of one image at most."""
MAX_TOTAL_PIXELS: Final = 64 * 10**6
"""Pixels of all images of a request together at most."""
MAX_TEXT: Final = 32_000
"""Characters of all prompts of a request together at most."""

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a line for every wrong byte would fill the disk

JSON, FORM = "application/json", "multipart/form-data"
_MAX_SEPARATORS: Final = MAX_TEXT + 1000  # commas and brackets in the prompts and between the values of a JSON body


class Refused(Exception):
    """A request that is not answered with scores: the HTTP status, and the reason in words for its sender."""

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


@dataclass(frozen=True)
class ScoreRequest:
    """What a body asks for: image i, still encoded, under prompt i. Counts, texts and numbers of pixels are checked."""

    files: list[bytes]
    prompts: list[str]
    pixels: list[int]  # of each image, by its header


def content_kind(content_type: str) -> str:
    """JSON or FORM. Raises Refused for every other content type."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in (JSON, FORM):
        raise Refused(415, f"send {JSON} or {FORM}, got {kind[:60] or 'no content type'}")
    return kind


def parse_body(body: bytes, content_type: str) -> ScoreRequest:
    """Takes a body apart and checks everything that the headers of its images tell. Raises Refused."""
    files, prompts = _from_json(body) if content_kind(content_type) == JSON else _from_form(body, content_type)
    for prompt in prompts:
        try:
            check_prompt(prompt)
        except InputError as error:
            raise Refused(422, str(error)) from error
    if (characters := sum(map(len, prompts))) > MAX_TEXT:
        raise Refused(413, f"the prompts of a request must have at most {MAX_TEXT} characters, got {characters}")
    pixels = [_pixel_count(file, number) for number, file in enumerate(files)]
    if sum(pixels) > MAX_TOTAL_PIXELS:
        raise Refused(
            413,
            f"the images of a request must have at most {MAX_TOTAL_PIXELS} pixels together, got {sum(pixels)}: send "
            "fewer or smaller images",
        )
    return ScoreRequest(files, prompts, pixels)


def decode_images(request: ScoreRequest, shrink_to: int) -> list[np.ndarray]:
    """The images, uint8 [H, W, 3], scaled down to at most `shrink_to` pixels each. Raises Refused for a broken one."""
    images: list[np.ndarray] = []
    for number, file in enumerate(request.files):
        try:
            images.append(decode_image(file, max_pixels=MAX_PIXELS, shrink_to=shrink_to))
        except ImageError as error:
            raise _refused_image(error, number) from error
    return images


def _pixel_count(file: bytes, number: int) -> int:
    try:
        count = pixel_count(file)
    except ImageError as error:
        raise _refused_image(error, number) from error
    if count > MAX_PIXELS:
        raise Refused(413, f"image {number}: the image has {count} pixels, over the limit of {MAX_PIXELS}")
    return count


def _refused_image(error: ImageError, number: int) -> Refused:
    return Refused(413 if isinstance(error, ImageTooLargeError) else 422, f"image {number}: {error}")


def _check_counts(images: int, prompts: int) -> None:
    if not 1 <= images <= MAX_REQUEST_IMAGES:
        raise Refused(422, f"a request must have 1 to {MAX_REQUEST_IMAGES} images, got {images}")
    if images != prompts:
        raise Refused(422, f"every image needs its prompt, got {images} images and {prompts} prompts")


def _from_json(body: bytes) -> tuple[list[bytes], list[str]]:
    # Millions of empty lists would need 20 times the memory of the body. Base64 has none of these characters.
    if sum(map(body.count, (b"[", b"{", b","))) > _MAX_SEPARATORS:
        raise Refused(422, f"the body must hold at most {MAX_REQUEST_IMAGES} images and prompts, got far more values")
    try:
        content: Any = json.loads(body)
    except ValueError as error:
        raise Refused(400, f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise Refused(400, "the body is not JSON that can be read: it is nested too deeply") from error
    if not isinstance(content, dict) or set(cast(dict[str, Any], content)) != {"images", "prompts"}:
        raise Refused(422, 'the body must be {"images": [base64, ...], "prompts": [text, ...]} and nothing else')
    images, prompts = content["images"], content["prompts"]
    if not all(isinstance(part, list) and all(isinstance(entry, str) for entry in part) for part in (images, prompts)):
        raise Refused(422, "images and prompts must be lists of strings")
    _check_counts(len(images), len(prompts))
    return [_from_base64(image, number) for number, image in enumerate(images)], prompts


def _from_base64(text: str, number: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error is one of them
        raise Refused(422, f"image {number}: not base64: {error}") from error


def _from_form(body: bytes, content_type: str) -> tuple[list[bytes], list[str]]:
    charset = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise Refused(415, "send the fields of the form in UTF-8")
    try:
        return asyncio.run(_parse_form(body, content_type))
    except MultiPartException as error:
        raise Refused(400, f"the body is not {FORM}: {error.message}") from error


async def _parse_form(body: bytes, content_type: str) -> tuple[list[bytes], list[str]]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    headers = Headers({"content-type": content_type})
    parser = MultiPartParser(
        headers,
        stream(),
        max_files=MAX_REQUEST_IMAGES,
        max_fields=MAX_REQUEST_IMAGES,
        max_part_size=4 * MAX_PROMPT_CHARACTERS,
    )
    parser.spool_max_size = len(body) + 1  # the body is in memory already: write no file
    form = await parser.parse()
    images, prompts = form.getlist("images"), form.getlist("prompts")
    files = [await image.read() for image in images if isinstance(image, UploadFile)]
    await form.close()
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(files) != len(images) or len(texts) != len(prompts):
        raise Refused(422, "send every image as a file named `images` and every prompt as a field named `prompts`")
    _check_counts(len(files), len(texts))
    return files, texts
