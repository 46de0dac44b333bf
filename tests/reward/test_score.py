"""`reward score`: a folder of images under prompts, over Ray Data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.spatialscore import SpatialScorer
from conf import Settings, SettingsError
from pipelines.cli import understand
from pipelines.reward.score import WrongPrompts, image_folder, read_prompts, score_images
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

TEXT = "a red circle left of a blue square"


def _settings(tmp_path: Path, *more: str) -> Settings:
    words = ["reward", "score", str(tmp_path / "prompts.jsonl"), str(tmp_path / "images"),
             f"--out={tmp_path}/scores.parquet", f"run_dir={tmp_path}", "score.chunk_rows=4", *more]  # fmt: skip
    return understand(words)[1]


@pytest.mark.ray
def test_a_folder_is_scored_in_order_and_an_interrupted_call_goes_on(ray_cluster: None, tmp_path: Path) -> None:
    """Missing, broken and unreadable rows keep their place, with an error; nothing is left beside the result."""
    save_tiny_vlm(tmp_path / "vlm")
    tiny_spatialscore(tmp_path / "vlm").save_pretrained(tmp_path / "reward/model")
    (tmp_path / "images" / "deep").mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    names = [f"deep/{number}.png" for number in range(9)]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(tmp_path / "images" / name)
    (tmp_path / "images/deep/4.png").write_bytes(b"no image")
    names[2] = "absent.png"
    prompts = [TEXT] * 8 + [" "]
    rows = [{"image": name, "prompt": prompt, "id": 1} for name, prompt in zip(names, prompts, strict=True)]
    (tmp_path / "prompts.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))
    settings, lines = _settings(tmp_path), []

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt, match="score 4/9 images"):
        score_images(settings, interrupt)
    assert len(list((tmp_path / "scores.parquet.parts").iterdir())) == 1
    result = score_images(settings, lines.append)
    assert "score 5/5 images" in lines[-1]  # the first chunk was there
    found = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert [(row["image"], row["prompt"]) for row in found] == list(zip(names, prompts, strict=True))
    bad = {2: "no such image", 4: "UnidentifiedImageError", 8: "ValueError"}
    for number, row in enumerate(found):
        assert bad.get(number, "") in (row["error"] or ""), row
        assert (row["mu"] is None) == (number in bad) == (row["sigma"] is None) == (row["error"] is not None)
    good = [number for number in range(9) if number not in bad]
    wanted = SpatialScorer.from_pretrained(tmp_path / "reward/model").score(
        images=images[good], prompts=[TEXT] * len(good)
    )
    np.testing.assert_allclose([found[number]["mu"] for number in good], wanted.mu, rtol=1e-4, atol=1e-5)
    assert (result.images, result.without_score) == (9, 3)
    assert not (tmp_path / "scores.parquet.parts").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("{}", "line 1"),
        ('{"image": "a.png", "prompt": "a"}\n{"image": 3}', "line 2"),
        ("[", "line 1"),
    ],
)
def test_a_file_of_prompts_that_is_none_is_refused_by_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "prompts.jsonl").write_text(content)
    with pytest.raises(WrongPrompts, match=says):
        read_prompts(str(tmp_path / "prompts.jsonl"))
    with pytest.raises(WrongPrompts, match="no file of prompts"):
        read_prompts(str(tmp_path / "absent.jsonl"))
    with pytest.raises(WrongPrompts, match="no folder of images"):
        image_folder(str(tmp_path / "absent"))


def test_its_words_are_understood_in_any_order(tmp_path: Path) -> None:
    own = understand(["reward", "score", "p.jsonl", "images dir", "scenes", "num_cpus=1", "--out=s.parquet"])[1]
    assert (own.score.prompts, own.score.images, own.score.out, own.num_cpus) == (
        "p.jsonl", "images dir", "s.parquet", 1,
    )  # fmt: skip
    with pytest.raises(SettingsError, match=r"score\.out must end in \.parquet"):
        understand(["reward", "score", "p.jsonl", "images", "--out=s.csv"])
    with pytest.raises(SettingsError):
        understand(["reward", "serve", "--out=s.parquet"])
