"""docs/score_openapi.yaml agrees with the code that reads and answers requests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.reward_input import MAX_PROMPT_CHARACTERS
from actors.workers import score_body
from actors.workers.score_body import FORM, JSON, Refused, decode_images, parse_body
from conf.rewards import MAX_REQUEST_IMAGES

ROOT = Path(__file__).parents[2]
API: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "score_openapi.yaml").read_text())
POST = API["paths"]["/score"]["post"]


def test_the_example_request_is_accepted_and_its_image_is_decoded() -> None:
    body = POST["requestBody"]["content"][JSON]["examples"]["one image"]["value"]
    request = parse_body(json.dumps(body).encode(), JSON)
    assert request.prompts == body["prompts"]
    assert decode_images(request, shrink_to=200704)[0].shape == (8, 8, 3)


def test_the_limits_are_those_of_the_code() -> None:
    contents = POST["requestBody"]["content"]
    schemas = [API["components"]["schemas"]["Request"]["properties"], contents[FORM]["schema"]["properties"]]
    assert set(contents) == {JSON, FORM}
    for schema in schemas:
        assert {schema[name]["maxItems"] for name in ("images", "prompts")} == {MAX_REQUEST_IMAGES}
        assert schema["prompts"]["items"]["maxLength"] == MAX_PROMPT_CHARACTERS


def test_the_example_of_a_refusal_is_the_reason_that_the_code_gives() -> None:
    detail = API["components"]["responses"]["Refused"]["content"][JSON]["examples"]["a prompt is missing"]["value"]
    with pytest.raises(Refused) as refused:
        parse_body(json.dumps({"images": ["", ""], "prompts": ["a red circle"]}).encode(), JSON)
    assert detail == {"detail": refused.value.reason}
    assert str(refused.value.status) in POST["responses"]


def test_every_status_of_the_code_is_documented() -> None:
    folder = Path(score_body.__file__).parent
    sources = "".join((folder / name).read_text() for name in ("score_body.py", "score_service.py"))
    statuses = set(re.findall(r"Refused\(\s*(\d{3})", sources))
    assert {"401", "413", "503"} <= statuses
    assert statuses | {"200"} <= set(POST["responses"])
