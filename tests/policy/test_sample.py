"""The sheets of `policy sample`: names that do not collide, and what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from actors.policy.flux import FluxPolicy
from actors.types import PolicyWeights
from conf import Settings, SettingsError, load
from pipelines.policy.export import export_lora
from pipelines.policy.fingerprint import flux_location
from pipelines.policy.image_grid import font_for, image_grid
from pipelines.policy.sample import sample_images, sheet_name
from pipelines.policy.sample_texts import check_texts
from pipelines.scenes.checker import can_check

PLAIN = "a red circle left of a blue square"


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (PLAIN, "a-red-circle-left-of-a-blue-square.seed-0."),
        ("一只红色的猫", "一只红色的猫.seed-0."),
        ("ein Würfel über dem Kreis", "ein-würfel-über-dem-kreis-"),
        ("../../etc/passwd", "etc-passwd-"),
        ("?!", "545f940d.seed-0."),
        ("a" * 300, "a" * 60 + "-"),
        ("猫" * 300, "猫" * 60 + "-"),
        ("two\nlines", "two-lines-"),
    ],
)
def test_a_text_of_any_script_gives_a_file_name(text: str, start: str, tmp_path: Path) -> None:
    name = sheet_name(text, 0, "7", 64, 64)
    assert name.startswith(start)
    assert not name.startswith((".", "-")) and name.endswith(".seed-0.version-7.64x64.png")
    (tmp_path / name).touch()  # short enough, and without a folder in it


def test_different_sheets_have_different_names() -> None:
    texts = [
        PLAIN,
        PLAIN.upper(),
        f"{PLAIN}!",
        f"{PLAIN}?",
        f" {PLAIN}",
        "?",
        "!",
        "",
        "a" * 61,
        "a" * 62,
        "a-b",
        "a b",
    ]
    names = {sheet_name(text, 0, "7", 64, 64) for text in texts}
    names |= {sheet_name(PLAIN, 1, "7", 64, 64), sheet_name(PLAIN, 0, "8", 64, 64), sheet_name(PLAIN, 0, "7", 64, 96)}
    assert len(names) == len(texts) + 3


def test_equal_texts_are_drawn_once_and_their_number_of_images_is_bounded() -> None:
    assert check_texts(load("scenes", [f"sample.text=['{PLAIN}', other, '{PLAIN}']"])) == [PLAIN, "other"]
    with pytest.raises(SettingsError, match=r"sample\.images must be in \[1, 64\], got 100000"):
        load("scenes", ["sample.images=100000"])


def test_the_checker_judges_scenes_of_its_own_size_only() -> None:
    assert can_check(load("scenes").flux)
    assert not can_check(load("scenes", ["flux.height=96", "flux.width=96"]).flux)
    assert not can_check(load("flux_dev").flux)


def test_a_title_is_wrapped_and_makes_the_sheet_higher() -> None:
    images = np.zeros((1, 64, 64, 3), np.uint8)
    plain, titled = (image_grid([images], [[""]], ["x"], title) for title in ((), ("word " * 40, "seed 0")))
    assert titled.width == plain.width
    assert titled.height > plain.height + 5 * 22
    assert np.array_equal(np.asarray(titled)[-plain.height :], np.asarray(plain))


def test_characters_that_pillow_lacks_are_drawn_by_another_font_if_there_is_one() -> None:
    own = ImageFont.load_default(16)
    box, other = own.getmask("é").getbbox(), font_for("é", 16)
    if other.getmask("\uffff").getbbox() == box:
        pytest.skip("this machine has no other font")
    assert other.getmask("é").getbbox() != box
    assert font_for(PLAIN, 16).getmask("a").getbbox() == own.getmask("a").getbbox(), "Pillow's own if it has all"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A run of the scenes world with the export of version 3, and no reward model."""
    run_dir = tmp_path_factory.mktemp("sampled") / "rün"
    settings = load("scenes", [f"run_dir={run_dir}", "sample.images=1", "evaluation.denoise_steps=1"])
    policy = FluxPolicy.from_pretrained(flux_location(settings), settings.flux)
    lora = {key: value.numpy() for key, value in policy.lora_state().items()}
    export_lora(PolicyWeights(3, lora), settings)
    return settings


def test_each_text_has_a_sheet_that_says_what_it_shows(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = load("scenes", [f"run_dir={settings.run_dir}", "sample.images=1", "evaluation.denoise_steps=1",
                            f"sample.text=['{PLAIN}', a photo of a cat]", "sample.seed=5"])  # fmt: skip
    torch.set_num_threads(1)
    paths = sample_images(drawn)
    assert [path.name.split(".")[0] for path in paths] == [PLAIN.replace(" ", "-"), "a-photo-of-a-cat"]
    assert "this FLUX does not know 'photo', 'cat'" in capsys.readouterr().err
    for path, text in zip(paths, drawn.sample.text, strict=True):
        with Image.open(path) as sheet:
            sheet.load()
            assert [sheet.info[key] for key in ("prompt", "seed", "policy version")] == [text, "5", "3"]
    checked, free = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in paths)
    colored = [(np.ptp(sheet[-22:], axis=2) > 60).any() for sheet in (checked, free)]
    assert colored == [True, False], "only a text of the scenes world has a verdict"
