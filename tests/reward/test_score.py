"""`reward score`: scores a folder of images under their prompts with Ray Data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from actors.spatialscore import SpatialScorer
from actors.types import Scores
from conf import Settings, SettingsError, UserError, load
from pipelines.cli import parse_settings
from pipelines.common.images import encode_png
from pipelines.common.paths import run_paths
from pipelines.reward import score_files as score_files_module
from pipelines.reward.score import score_images
from pipelines.reward.score_files import MAX_FILE_BYTES, FileScorer, read_files, score_files
from pipelines.reward.score_input import image_folder, read_requests
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

PROMPT = "a red circle left of a blue square"


def _settings(tmp_path: Path) -> Settings:
    overrides = [
        *(f"score.prompts={tmp_path}/prompts.jsonl", f"score.images={tmp_path}/images"),
        *(f"score.out={tmp_path}/scores.parquet", f"run_dir={tmp_path}", "score.chunk_rows=4"),
    ]
    return load("scenes", overrides)


@pytest.mark.ray
def test_a_folder_is_scored_in_order_and_an_interrupted_call_resumes(ray_cluster: None, tmp_path: Path) -> None:
    """Rows that are missing, broken or unreadable keep their place and get an error. No temporary file is left."""
    settings = _settings(tmp_path)
    save_tiny_vlm(tmp_path / "vlm")
    tiny_spatialscore(tmp_path / "vlm").save_pretrained(run_paths(settings).reward_model)
    (tmp_path / "images" / "deep").mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    names = [f"deep/{number}.png" for number in range(9)]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(tmp_path / "images" / name)
    (tmp_path / "images/deep/4.png").write_bytes(b"not an image")
    names[2] = "absent.png"
    prompts = [PROMPT] * 8 + [" "]
    rows = [{"image": name, "prompt": prompt, "id": 1} for name, prompt in zip(names, prompts, strict=True)]
    (tmp_path / "prompts.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))

    def interrupt(line: str) -> None:
        if "4/9 images" in line:  # the first chunk is saved
            raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt, match="4/9 images"):
        score_images(settings, interrupt)
    assert len(list((tmp_path / "scores.parquet.parts").iterdir())) == 1
    lines: list[str] = []
    result = score_images(settings, lines.append)
    assert "score  5/5 images" in lines[-1], "the first chunk is not scored again"
    scored = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    assert [(row["image"], row["prompt"]) for row in scored] == list(zip(names, prompts, strict=True))
    errors = {2: "no such image", 4: "not a readable PNG, JPEG or WEBP", 8: "blank"}
    for number, row in enumerate(scored):
        assert errors.get(number, "") in (row["error"] or ""), row
        assert (row["mu"] is None) == (number in errors) == (row["sigma"] is None) == (row["error"] is not None)
    good = [number for number in range(9) if number not in errors]
    scorer = SpatialScorer.from_pretrained(run_paths(settings).reward_model)
    expected = scorer.score(images=images[good], prompts=[PROMPT] * len(good))
    np.testing.assert_allclose([scored[number]["mu"] for number in good], expected.mu, rtol=1e-4, atol=1e-5)
    assert (result.images, result.without_score) == (9, 3)
    assert not (tmp_path / "scores.parquet.parts").exists()


def _file(folder: Path, name: str, image: Image.Image, **options: Any) -> str:
    image.save(folder / name, **options)
    return name


def test_a_row_that_cannot_be_scored_is_a_row_with_its_reason(tmp_path: Path) -> None:
    """The other rows are scored, whatever is wrong with their neighbours."""
    folder, noise = tmp_path / "images", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    folder.mkdir()
    (folder / "folder").mkdir()
    (folder / "text.png").write_text("<html>")
    (folder / "empty.png").write_bytes(b"")
    Image.fromarray(noise).save(tmp_path / "outside.png")
    with (folder / "huge.png").open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    good = _file(folder, "good.png", Image.fromarray(noise))
    (folder / "link.png").symlink_to(folder / good)
    os.mkfifo(folder / "pipe")
    (folder / "truncated.png").write_bytes((folder / good).read_bytes()[:200])
    rows = {
        "absent.png": "no such image",
        "text.png": "begins with b'<html>'",
        "empty.png": "is empty",
        "folder": "not a file",
        "pipe": "not a file",
        "huge.png": "over the limit",
        "truncated.png": "damaged or truncated",
        _file(folder, "long.png", Image.new("RGB", (402, 2))): "402 x 2 pixels",
        _file(folder, "picture.gif", Image.new("RGB", (64, 64))): "not a readable",
        "../outside.png": "leads out of the image folder",
        "folder/../../outside.png": "leads out of the image folder",
        str(tmp_path / "outside.png"): "leads out of the image folder",
        "good.png\0": "leads out of the image folder",
        good: None,
        "link.png": None,
        _file(folder, "grey.png", Image.fromarray(noise[..., 0].astype(np.uint16) * 257)): None,
        _file(folder, "large.jpg", Image.fromarray(noise).resize((900, 900))): None,
    }
    save_tiny_vlm(tmp_path / "vlm")
    scorer = SpatialScorer(tiny_spatialscore(tmp_path / "vlm"))
    table = pa.table({"image": list(rows), "prompt": [PROMPT] * len(rows)})
    (read,) = read_files(table, str(folder))
    assert read.schema.field("file").type == pa.large_binary(), "32 files of 70 MB are over 2 GiB in one column"
    scored = score_files(scorer, read).to_pylist()
    for row, (name, reason) in zip(scored, rows.items(), strict=True):
        assert row["image"] == name
        assert (row["error"] is None) == (reason is None) == (row["mu"] is not None), row
        assert (reason or "") in (row["error"] or ""), row
        assert " at 0x" not in (row["error"] or "")
    by_name = {row["image"]: row["mu"] for row in scored}
    grey = noise[..., :1].repeat(3, axis=2)
    expected = scorer.score(images=[noise, noise, grey], prompts=[PROMPT] * 3).mu
    np.testing.assert_allclose([by_name[name] for name in (good, "link.png", "grey.png")], expected, atol=1e-5)


def test_files_are_handed_on_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows keep their order and their number. A file above the limit is alone."""
    monkeypatch.setattr(score_files_module, "MAX_BLOCK_BYTES", 100)
    sizes = {"a": 40, "b": 60, "c": 1, "d": 250, "e": 0, "f": 100, "g": 30}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    names = ["a", "b", "absent", "c", "d", "e", "f", "g"]
    tables = list(read_files(pa.table({"image": names, "prompt": names}), str(tmp_path)))
    assert [table["image"].to_pylist() for table in tables] == [["a", "b", "absent"], ["c"], ["d"], ["e", "f"], ["g"]]
    whole = pa.concat_tables(tables)
    assert whole["prompt"].to_pylist() == names
    assert [None if file is None else len(file) for file in whole["file"].to_pylist()] == [sizes.get(n) for n in names]
    assert [bool(error) for error in whole["error"].to_pylist()] == [name == "absent" for name in names]


def test_an_actor_decodes_a_batch_of_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of 128 MB may hold thousands of small files."""
    scorer = SimpleNamespace(batch_images=3)
    monkeypatch.setattr(score_files_module, "open_scorer", lambda model, serving: scorer)
    monkeypatch.setattr(score_files_module, "score_files", lambda with_scorer, rows: rows)
    actor = FileScorer("", load("scenes").serving)
    assert [table.num_rows for table in actor(pa.table({"image": list("abcdefgh")}))] == [3, 3, 2]


class _Refuses:
    """A scorer that refuses black images, and calls with one among others."""

    model = SimpleNamespace(processor=SimpleNamespace(useful_pixels=10**6))

    def check(self, prompt: str) -> None:
        pass

    def score(self, images: list[np.ndarray], prompts: list[str]) -> Scores:
        if not all(image.any() for image in images):
            raise ValueError("an image is black")
        return Scores.deterministic([float(image.mean()) for image in images])


def test_a_row_that_the_scorer_refuses_does_not_take_others_with_it() -> None:
    files = [encode_png(np.full((4, 4, 3), value, np.uint8)) for value in (1, 0, 3)]
    rows = {"image": ["a", "b", "c"], "prompt": [PROMPT] * 3, "file": files, "error": pa.nulls(3, pa.string())}
    scored = score_files(cast(SpatialScorer, _Refuses()), pa.table(rows)).to_pylist()
    assert [(row["mu"], row["error"]) for row in scored] == [(1.0, None), (None, "an image is black"), (3.0, None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("{}", "jsonl:1: a line must be"),
        ('{"image": "a.png", "prompt": "a"}\n{"image": 3}', "jsonl:2: a line must be"),
        ('{"image": "", "prompt": "a"}', "jsonl:1: a line must be"),
        ("[", "jsonl:1 cannot be read, it is not JSON"),
        ('{"image": "a.png", "prompt": "\\ud800"}', "jsonl:1 cannot be read, it holds half of a surrogate pair"),
    ],
)
def test_an_invalid_prompts_file_is_a_user_error_that_names_the_line(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "prompts.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        read_requests(str(tmp_path / "prompts.jsonl"))


def test_missing_input_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.jsonl must be a file \(no such file\): a line must be"):
        read_requests(str(tmp_path / "absent.jsonl"))
    with pytest.raises(UserError, match="needs a file of prompts, got none: write spatialt2i reward score"):
        read_requests("")
    with pytest.raises(UserError, match="no image folder"):
        image_folder(str(tmp_path / "absent"))
    settings = _settings(tmp_path)
    with pytest.raises(UserError, match="run `spatialt2i reward train` first"):
        score_images(settings)
    config = run_paths(settings).reward_model / "spatialscore.json"
    config.parent.mkdir(parents=True)
    for content, reason in (
        ("[", "is damaged"),
        ('{"model": 1, "pixels": 64}', "model: Input"),
        ('{"a": 1}', "unknown keys"),
    ):
        config.write_text(content)
        with pytest.raises(UserError, match=f"spatialscore.json .*{reason}.*train or copy the model again"):
            score_images(settings)


def test_the_command_takes_its_words_in_any_order() -> None:
    model = "serving.model=elsewhere"
    words = ["reward", "score", "p.jsonl", "images dir", "scenes", "num_cpus=1", "--out=s.parquet", model]
    settings = parse_settings(words)[1]
    assert (settings.score.prompts, settings.score.images) == ("p.jsonl", "images dir")
    assert (settings.score.out, settings.num_cpus) == ("s.parquet", 1)
    with pytest.raises(SettingsError, match=r"score\.out must end in \.parquet"):
        parse_settings(["reward", "score", "p.jsonl", "images", "--out=s.csv", model])
    with pytest.raises(SettingsError):
        parse_settings(["reward", "serve", "--out=s.parquet", model])
