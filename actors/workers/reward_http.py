"""POST /score: the reward pool over HTTP. JSON with base64 images, or multipart files; never pickle.

{"images": ["<base64 PNG, JPEG or WebP>", ...], "prompts": ["a red circle left of a blue square", ...]}
-> {"mu": [3.1, ...], "sigma": [0.2, ...]}

With a token, callers send `Authorization: Bearer <token>`. 503 with Retry-After: send the same again later.
"""

import base64
import binascii
import hmac
import io
import json

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from PIL import Image, UnidentifiedImageError
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import UploadFile

from actors.services.endpoint import Key
from actors.types import Scores

MAX_BODY_BYTES = 32 * 2**20
MAX_IMAGES = 64
MAX_PIXELS = 16 * 10**6
MAX_PROMPT_CHARACTERS = 4000
FORMATS = ("PNG", "JPEG", "WEBP")
RETRY_AFTER_S = 2

app = FastAPI(title="SpatialScore")


def _check_token(request: Request, token: Key | None) -> None:
    """Both sides are compared whole, so that the time taken tells nothing of the token."""
    scheme, _, borne = request.headers.get("authorization", "").partition(" ")
    if token is None or (scheme.lower() == "bearer" and hmac.compare_digest(borne.encode(), token.value.encode())):
        return
    raise HTTPException(
        401, "send the service's token: Authorization: Bearer <token>", headers={"WWW-Authenticate": "Bearer"}
    )


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
    except Image.DecompressionBombError as error:
        raise HTTPException(413, f"image {number} has over {MAX_PIXELS} pixels") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise HTTPException(422, f"image {number} is no readable {', '.join(FORMATS)} file: {error}") from error


async def answer(request: Request, scorer: DeploymentHandle, token: Key | None) -> Scores:
    """The scores that a request asks for. Raises HTTPException, whose status and text say what is wrong with it.

    401 without the token, 4xx for what cannot be scored, and 503 where no replica takes the call now.
    """
    _check_token(request, token)
    _check_length(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        files, prompts = _from_json(await request.body())
    elif kind == "multipart/form-data":
        files, prompts = await _from_form(request)
    else:
        raise HTTPException(415, f"send application/json or multipart/form-data, got {kind or 'no content type'}")
    _check_numbers(files, prompts)
    images = [_decode(file, number) for number, file in enumerate(files)]
    try:
        return await scorer.score.remote(images, prompts)
    except BackPressureError as error:
        reason, cause = "all replicas are busy and the queue is full", error
    except (RayActorError, ReplicaUnavailableError) as error:
        reason, cause = "the replica that scored this died", error
    raise HTTPException(
        503, f"{reason}: send the same again after {RETRY_AFTER_S} s", headers={"Retry-After": str(RETRY_AFTER_S)}
    ) from cause


# Last in the file, and without postponed annotations: Serve copies the class with the globals it has at this point.
@serve.deployment(ray_actor_options={"num_cpus": 0.1})
@serve.ingress(app)
class ScoreHttp:
    """Reads requests, refuses bad ones with a reason, and asks the replicas."""

    def __init__(self, scorer: DeploymentHandle, token: Key | None) -> None:
        self._scorer, self._token = scorer, token

    @app.get("/health")
    async def health(self) -> dict[str, str]:
        """Answers while the proxy and this deployment live."""
        return {"status": "ok"}

    @app.post("/score")
    async def score(self, request: Request) -> dict[str, list[float]]:
        """Scores image i against prompt i: `mu`, higher is better, and `sigma`."""
        scores = await answer(request, self._scorer, self._token)
        return {"mu": scores.mu.tolist(), "sigma": scores.sigma.tolist()}
