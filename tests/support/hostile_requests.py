"""Bodies for POST /score that a hostile or careless client may send, and what they must be answered."""

from __future__ import annotations

import base64
import io
import json
import random
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

JSON = "application/json"
FORM = "multipart/form-data; boundary=B0UNDARY"


@dataclass(frozen=True)
class Hostile:
    """One request, and the status and reason that it must get."""

    name: str
    body: bytes
    status: int
    reason: str
    content_type: str = JSON


def png(width: int = 8, height: int = 8, mode: str = "RGB") -> bytes:
    """A PNG file of one colour."""
    return encoded(Image.new(mode, (width, height)), "PNG")


def encoded(image: Image.Image, kind: str) -> bytes:
    """The file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG file whose header claims a size, without its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def json_body(files: list[bytes], prompts: list[str]) -> bytes:
    """A well-formed body."""
    return json.dumps({"images": [base64.b64encode(file).decode() for file in files], "prompts": prompts}).encode()


def form_body(files: list[bytes], prompts: list[str]) -> bytes:
    """A well-formed form."""
    image = b'--B0UNDARY\r\nContent-Disposition: form-data; name="images"; filename="i.png"\r\n\r\n%b\r\n'
    text = b'--B0UNDARY\r\nContent-Disposition: form-data; name="prompts"\r\n\r\n%b\r\n'
    return b"".join([image % file for file in files] + [text % p.encode() for p in prompts]) + b"--B0UNDARY--\r\n"


def hostile_requests() -> list[Hostile]:
    """One request of each kind, smallest first where it matters."""
    good, text = png(), "a red circle"
    one = json_body([good], [text])

    def with_image(file: bytes) -> bytes:
        return json_body([file], [text])

    def with_prompt(prompt: str) -> bytes:
        return json_body([good], [prompt])

    return [
        Hostile("empty", b"", 400, "not JSON"),
        Hostile("cut", one[:-9], 400, "not JSON"),
        Hostile("not UTF-8", b'{"images": ["\xff"]}', 400, "not JSON"),
        Hostile("nested lists", b"[" * 10_000, 400, "nested too deeply"),
        Hostile("nested objects", b'{"a":' * 10_000, 400, "nested too deeply"),
        Hostile("a million lists", b'{"images": [' + b"[]," * 10**6 + b"[]]}", 422, "far more values"),
        Hostile("digits", b'{"images": %s, "prompts": []}' % (b"9" * 5000), 400, "not JSON"),
        Hostile("a list", b"[]", 422, "nothing else"),
        Hostile("a number that is none", b'{"images": NaN, "prompts": Infinity}', 422, "lists of strings"),
        Hostile("another key", one[:-1] + b', "seed": 1}', 422, "nothing else"),
        Hostile("no image", json_body([], []), 422, "1 to 64 images, got 0"),
        Hostile("65 images", json_body([good] * 65, [text] * 65), 422, "1 to 64 images, got 65"),
        Hostile("a prompt too many", json_body([good], [text] * 2), 422, "1 images and 2 prompts"),
        Hostile("not base64", b'{"images": ["!"], "prompts": ["a"]}', 422, "image 0: not base64"),
        Hostile(
            "base64 of another alphabet", '{"images": ["é"], "prompts": ["a"]}'.encode(), 422, "image 0: not base64"
        ),
        Hostile("a surrogate as base64", b'{"images": ["\\ud800"], "prompts": ["a"]}', 422, "image 0: not base64"),
        Hostile("blank prompt", with_prompt(" \u00a0"), 422, "must not be blank"),
        Hostile("surrogate", with_prompt("\ud800 left"), 422, "half of a surrogate pair"),
        Hostile("NUL", with_prompt("a\x00b"), 422, "control character"),
        Hostile("long prompt", with_prompt("x" * 4001), 422, "at most 4000 characters"),
        Hostile("long prompts", json_body([good] * 9, ["x" * 4000] * 9), 413, "at most 32000 characters, got 36000"),
        Hostile("no image file", with_image(b"GIF89a" + b"x" * 20), 422, "image 0: "),
        Hostile("truncated", with_image(encoded(Image.effect_noise((64, 64), 90), "PNG")[:-80]), 422, "image 0: "),
        Hostile("wide", with_image(png(201, 1)), 422, "factor of 200"),
        Hostile("high", with_image(png(1, 4000)), 422, "factor of 200"),
        Hostile("many pixels", with_image(png_header(5000, 5000)), 413, "over the limit of 16000000"),
        Hostile("bomb", with_image(png_header(2**16, 2**16)), 413, "image 0: "),
        Hostile("bombs together", json_body([png(4000, 4000, "1")] * 5, [text] * 5), 413, "64000000 pixels together"),
        Hostile("pickle", b"\x80\x04N.", 415, "application/json or multipart", "application/octet-stream"),
        Hostile("no boundary", form_body([good], [text]), 400, "Missing boundary", "multipart/form-data"),
        Hostile("cut form", form_body([good], [text])[:50], 422, "1 to 64 images, got 0", FORM),
        Hostile("slow charset", form_body([good], [text]), 415, "UTF-8", f"{FORM}; charset=punycode"),
        Hostile("long field", form_body([good], ["x" * 20_000]), 400, "maximum size", FORM),
        Hostile("many fields", form_body([good], [text] * 100), 400, "Too many fields", FORM),
        Hostile("text as image", form_body([], [text]).replace(b'"prompts"', b'"images"'), 422, "as a file", FORM),
    ]


def mutated(rng: random.Random) -> tuple[bytes, str]:
    """A random request: a good one whose bytes, images, prompts or structure are damaged, and its content type."""
    size = (rng.choice((1, 8, 33, 64)), rng.choice((1, 8, 64, 300)))
    image = Image.fromarray(np.frombuffer(rng.randbytes(size[0] * size[1] * 3), np.uint8).reshape(size[1], size[0], 3))
    image = image.convert(rng.choice(("RGB", "L", "RGB", "P", "1")))
    file = bytearray(encoded(image, "PNG" if image.mode in "P1" else rng.choice(("PNG", "JPEG", "WEBP"))))
    for _ in range(rng.choice((0, 0, 1, 3, 30))):
        file[rng.randrange(len(file))] = rng.randrange(256)
    count = rng.choice((1, 1, 2, 5))
    prompts = [_mutated_prompt(rng) for _ in range(rng.choice((count, count, count, 0, 7)))]
    files = [bytes(file)] * count
    if rng.random() < 0.3:
        body = form_body(files, [prompt.encode("utf-8", "replace").decode() for prompt in prompts])
        kind = rng.choice((FORM, FORM, FORM, JSON, "multipart/form-data; boundary=x", "text/plain", ""))
    else:
        body, kind = json_body(files, prompts), JSON
        body = rng.choice((*[body] * 6, body[: rng.randrange(len(body))], b"[" * rng.randrange(5000) + body))
    damaged = bytearray(body)
    for _ in range(rng.choice((0, 0, 0, 0, 0, 1, 20)) if damaged else 0):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged), kind


def _mutated_prompt(rng: random.Random) -> str:
    words = (
        "a red circle",
        "left of",
        "<reward>",
        "<|image_pad|>",
        "\ud800",
        "\u200b",
        "é",
        "图",
        "\x00",
        "",
        " ",
        "😀",
        "{}",
    )
    if rng.random() < 0.7:
        return "a red circle left of a blue square"
    return "".join(rng.choice(words) for _ in range(rng.choice((1, 2, 5, 5, 40, 900))))
