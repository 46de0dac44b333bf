"""POST /score: the reward pool over HTTP. JSON with base64 images, or multipart files; never pickle.

{"images": ["<base64 PNG, JPEG or WebP>", ...], "prompts": ["a red circle left of a blue square", ...]}
-> {"mu": [3.1, ...], "sigma": [0.2, ...]}
"""

import base64
import binascii
import io
import json

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from PIL import Image, UnidentifiedImageError
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import UploadFile

MAX_BODY_BYTES = 32 * 2**20
MAX_IMAGES = 64
MAX_PIXELS = 16 * 10**6
MAX_PROMPT_CHARACTERS = 4000
FORMATS = ("PNG", "JPEG", "WEBP")

app = FastAPI(title="SpatialScore")


def _check_length(request: Request) -> None:
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        raise HTTPException(411, "send a Content-Length")
    if int(length) > MAX_BODY_BYTES:
        raise HTTPException(413, f"a request has at most {MAX_BODY_BYTES} bytes, got {length}: send fewer images")


def _from_json(body: bytes) -> tuple[list[bytes], list[str]]:
    try:
        wanted = json.loads(body)
    except ValueError as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from error
    if not isinstance(wanted, dict) or set(wanted) != {"images", "prompts"}:
        raise HTTPException(422, 'the body must be {"images": [base64, ...], "prompts": [text, ...]} and nothing else')
    images, prompts = wanted["images"], wanted["prompts"]
    if not all(isinstance(part, list) and all(isinstance(one, str) for one in part) for part in (images, prompts)):
        raise HTTPException(422, "images and prompts must be lists of strings")
    try:
        return [base64.b64decode(image, validate=True) for image in images], prompts
    except binascii.Error as error:
        raise HTTPException(422, f"an image is no base64: {error}") from error


async def _from_form(request: Request) -> tuple[list[bytes], list[str]]:
    async with request.form(max_files=MAX_IMAGES, max_fields=MAX_IMAGES) as form:
        images, prompts = form.getlist("images"), form.getlist("prompts")
        files = [await image.read() for image in images if isinstance(image, UploadFile)]
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(files) != len(images) or len(texts) != len(prompts):
        raise HTTPException(
            422, "send every image as a file named `images` and every prompt as a field named `prompts`"
        )
    return files, texts


def _check_numbers(files: list[bytes], prompts: list[str]) -> None:
    if not 1 <= len(files) <= MAX_IMAGES:
        raise HTTPException(422, f"a request has 1 to {MAX_IMAGES} images, got {len(files)}")
    if len(files) != len(prompts):
        raise HTTPException(422, f"every image needs its prompt, got {len(files)} images and {len(prompts)} prompts")
    for prompt in prompts:
        if not prompt.strip() or len(prompt) > MAX_PROMPT_CHARACTERS:
            raise HTTPException(422, f"a prompt has 1 to {MAX_PROMPT_CHARACTERS} characters, got {len(prompt)}")


def _decode(file: bytes, number: int) -> np.ndarray:
    """uint8 [H, W, 3]; the size is checked before the pixels are unpacked."""
    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise HTTPException(413, f"image {number} has {image.width} x {image.height} pixels, over {MAX_PIXELS}")
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise HTTPException(422, f"image {number} is no readable {', '.join(FORMATS)} file: {error}") from error


# Last in the file, and without postponed annotations: Serve copies the class with the globals it has at this point.
@serve.deployment(ray_actor_options={"num_cpus": 0.1})
@serve.ingress(app)
class ScoreHttp:
    """Reads requests, refuses bad ones with a reason, and asks the replicas."""

    def __init__(self, scorer: DeploymentHandle) -> None:
        self._scorer = scorer

    @app.get("/health")
    async def health(self) -> dict[str, str]:
        """Answers while the proxy and this deployment live."""
        return {"status": "ok"}

    @app.post("/score")
    async def score(self, request: Request) -> dict[str, list[float]]:
        """Scores image i against prompt i: `mu`, higher is better, and `sigma`."""
        _check_length(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            files, prompts = _from_json(await request.body())
        elif kind == "multipart/form-data":
            files, prompts = await _from_form(request)
        else:
            raise HTTPException(415, f"send application/json or multipart/form-data, got {kind or 'no content type'}")
        _check_numbers(files, prompts)
        scores = await self._scorer.score.remote([_decode(file, i) for i, file in enumerate(files)], prompts)
        return {"mu": scores.mu.tolist(), "sigma": scores.sigma.tolist()}
