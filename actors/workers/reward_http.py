"""POST /score: the reward pool over HTTP. Takes JSON with base64 images, or multipart files, but never pickle.

{"images": ["<base64 PNG, JPEG or WebP>", ...], "prompts": ["a red circle left of a blue square", ...]}
-> {"mu": [3.1, ...], "sigma": [0.2, ...]}

If a token is set, callers send `Authorization: Bearer <token>`. After a 503 send the same request again; the header
Retry-After tells when.
"""

import base64
import binascii
import hmac
import io
import json
from typing import Any

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
    """Raises HTTPException unless the request has the token. Every wrong token takes the same time to compare."""
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    if token is None or (scheme.lower() == "bearer" and hmac.compare_digest(sent.encode(), token.value.encode())):
        return
    raise HTTPException(
        401, "the token is missing or wrong: send Authorization: Bearer <token>", headers={"WWW-Authenticate": "Bearer"}
    )


def _check_length(request: Request) -> None:
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        raise HTTPException(411, "the header Content-Length is missing: send it")
    if int(length) > MAX_BODY_BYTES:
        raise HTTPException(413, f"a request must have at most {MAX_BODY_BYTES} bytes, got {length}: send fewer images")


def _from_json(body: bytes) -> tuple[list[bytes], list[str]]:
    try:
        content = json.loads(body)
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    if not isinstance(content, dict) or set(content) != {"images", "prompts"}:
        raise HTTPException(422, 'the body must be {"images": [base64, ...], "prompts": [text, ...]} and nothing else')
    images, prompts = content["images"], content["prompts"]
    if not all(isinstance(part, list) and all(isinstance(entry, str) for entry in part) for part in (images, prompts)):
        raise HTTPException(422, "images and prompts must be lists of strings")
    try:
        return [base64.b64decode(image, validate=True) for image in images], prompts
    except binascii.Error as error:
        raise HTTPException(422, f"an image is not base64: {error}") from error


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


def _check_counts(files: list[bytes], prompts: list[str]) -> None:
    if not 1 <= len(files) <= MAX_IMAGES:
        raise HTTPException(422, f"a request must have 1 to {MAX_IMAGES} images, got {len(files)}")
    if len(files) != len(prompts):
        raise HTTPException(422, f"every image needs its prompt, got {len(files)} images and {len(prompts)} prompts")
    for prompt in prompts:
        if not prompt.strip() or len(prompt) > MAX_PROMPT_CHARACTERS:
            raise HTTPException(422, f"a prompt must have 1 to {MAX_PROMPT_CHARACTERS} characters, got {len(prompt)}")


def _decode(file: bytes, number: int) -> np.ndarray:
    """Decodes one image to uint8 [H, W, 3]. Checks its size before it decompresses the pixels."""
    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise HTTPException(413, f"image {number} has {image.width} x {image.height} pixels, over {MAX_PIXELS}")
            return np.asarray(image.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise HTTPException(413, f"image {number} has over {MAX_PIXELS} pixels") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise HTTPException(422, f"image {number} is not a readable {', '.join(FORMATS)} file: {error}") from error


async def score_request(request: Request, scorer: DeploymentHandle[Any], token: Key | None) -> Scores:
    """The scores that a request asks for.

    Raises HTTPException: 401 without the token, 4xx if the request cannot be scored, 503 if no replica accepts the call
    at the moment. Its text tells the reason.
    """
    _check_token(request, token)
    _check_length(request)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        files, prompts = _from_json(await request.body())
    elif content_type == "multipart/form-data":
        files, prompts = await _from_form(request)
    else:
        raise HTTPException(
            415, f"send application/json or multipart/form-data, got {content_type or 'no content type'}"
        )
    _check_counts(files, prompts)
    images = [_decode(file, number) for number, file in enumerate(files)]
    try:
        return await scorer.score.remote(images, prompts)
    except BackPressureError as error:
        reason, cause = "all replicas are busy and the queue is full", error
    except (RayActorError, ReplicaUnavailableError) as error:
        reason, cause = "the replica that scored this request died", error
    raise HTTPException(
        503,
        f"{reason}: send the same request again after {RETRY_AFTER_S} s",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    ) from cause


# Must be the last definition, in a module without postponed annotations: Serve copies the class with the globals that
# exist at this point.
@serve.deployment(ray_actor_options={"num_cpus": 0.1})
@serve.ingress(app)  # pyright: ignore[reportUntypedClassDecorator]
class ScoreHttp:
    """Reads requests, refuses invalid ones with a reason, and calls the replicas."""

    def __init__(self, scorer: DeploymentHandle[Any], token: Key | None) -> None:
        self._scorer, self._token = scorer, token

    @app.get("/health")
    async def health(self) -> dict[str, str]:
        """Answers as long as the proxy and this deployment run."""
        return {"status": "ok"}

    @app.post("/score")
    async def score(self, request: Request) -> dict[str, list[float]]:
        """Scores image i under prompt i: `mu`, higher is better, and `sigma`."""
        scores = await score_request(request, self._scorer, self._token)
        return {"mu": scores.mu.tolist(), "sigma": scores.sigma.tolist()}
