"""Export to an official layout and import from it give the same files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from conf import UserError
from pipelines.benchmark.items import BenchmarkItem
from pipelines.benchmark.layout import Copied, export_images, image_name, import_images
from pipelines.common.images import encode_jpeg, encode_png

ITEMS = {
    "dpg": BenchmarkItem("partiprompts1", "", (), 4),
    "tiif": BenchmarkItem("action+2d-long-7", "", (), 1, "action+2d", "long", 7),
    "unigenbench": BenchmarkItem("17", "", (), 4, "", "short", 17),
    "unigenbench_long": BenchmarkItem("17", "", (), 4, "", "long", 17),
    "geneval": BenchmarkItem("00003", "", (), 4, "counting", "", 3, {"tag": "counting", "prompt": "a photo"}),
}
PLACES = {
    "dpg": ["partiprompts1.png"],
    "tiif": ["action+2d/ours/long_description/7.png"],
    "unigenbench": [f"en/ours/17_{j}.png" for j in range(4)],
    "unigenbench_long": [f"en_long/ours/17_{j}.png" for j in range(4)],
    "geneval": ["00003/metadata.jsonl", *(f"00003/samples/0000{j}.png" for j in range(4))],
}


def write_images(folder: Path, item: BenchmarkItem, size: tuple[int, int] = (6, 6)) -> dict[str, bytes]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = {
        image_name(item.id, number): encode_png(rng.integers(256, size=(*size, 3), dtype=np.uint8))
        for number in range(item.images)
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ITEMS)
def test_an_exported_folder_is_imported_byte_for_byte(name: str, tmp_path: Path) -> None:
    item = ITEMS[name]
    files = write_images(tmp_path / "ours", item)
    assert export_images(name, [item], tmp_path / "ours", tmp_path / "official", "ours") == Copied(item.images, ())
    assert files_below(tmp_path / "official") == sorted(PLACES[name])
    assert import_images(name, [item], tmp_path / "official", tmp_path / "back") == Copied(item.images, ())
    assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == files


def test_a_grid_of_dpg_has_its_images_in_the_official_order(tmp_path: Path) -> None:
    item, source = ITEMS["dpg"], tmp_path / "ours"
    source.mkdir()
    for number in range(4):
        (source / image_name(item.id, number)).write_bytes(encode_png(np.full((2, 2, 3), 60 * number, np.uint8)))
    export_images("dpg", [item], source, tmp_path / "official", "ours")
    from PIL import Image

    grid = np.asarray(Image.open(tmp_path / "official" / "partiprompts1.png"))
    assert grid[::2, ::2, 0].tolist() == [[0, 60], [120, 180]]


def test_geneval_gets_the_line_of_its_prompt(tmp_path: Path) -> None:
    write_images(tmp_path / "ours", ITEMS["geneval"])
    export_images("geneval", [ITEMS["geneval"]], tmp_path / "ours", tmp_path / "official", "ours")
    line = (tmp_path / "official/00003/metadata.jsonl").read_text()
    assert json.loads(line) == ITEMS["geneval"].metadata


@pytest.mark.parametrize("name", ITEMS)
def test_missing_images_are_listed(name: str, tmp_path: Path) -> None:
    item, lost = ITEMS[name], image_name(ITEMS[name].id, ITEMS[name].images - 1)
    write_images(tmp_path / "ours", item)
    (tmp_path / "ours" / lost).unlink()
    exported = export_images(name, [item], tmp_path / "ours", tmp_path / "official", "ours")
    assert exported.missing == (lost,)
    assert exported.images == (0 if name == "dpg" else item.images - 1)
    if name not in ("tiif", "dpg"):
        assert import_images(name, [item], tmp_path / "official", tmp_path / "back") == exported


def test_a_single_image_of_dpg_is_no_grid(tmp_path: Path) -> None:
    item = BenchmarkItem("x", "", (), 1)
    files = write_images(tmp_path / "ours", item, (4, 8))
    export_images("dpg", [item], tmp_path / "ours", tmp_path / "official", "ours")
    assert (tmp_path / "official" / "x.png").read_bytes() == files["x_0.png"]


def test_jpeg_files_and_the_folder_of_one_model_are_imported(tmp_path: Path) -> None:
    item = BenchmarkItem("17", "", (), 1, "", "short", 17)
    (tmp_path / "17_0.jpg").write_bytes(encode_jpeg(np.full((8, 8, 3), 90, np.uint8), 95))
    assert import_images("unigenbench", [item], tmp_path, tmp_path / "back") == Copied(1, ())
    assert (tmp_path / "back" / "17_0.png").read_bytes().startswith(b"\x89PNG")


def test_images_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "ours", ITEMS["dpg"], (4, 8))
    with pytest.raises(UserError, match="4 x 4 pixels in a grid of DPG-Bench, got 8 x 4"):
        export_images("dpg", [ITEMS["dpg"]], tmp_path / "ours", tmp_path / "official", "ours")
    for model in ("one", "two"):
        (tmp_path / "tiif" / "action+2d" / model).mkdir(parents=True)
    with pytest.raises(UserError, match="one model, got one, two"):
        import_images("tiif", [ITEMS["tiif"]], tmp_path / "tiif", tmp_path / "back")
    (tmp_path / "partiprompts1.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"partiprompts1\.png: "):
        import_images("dpg", [ITEMS["dpg"]], tmp_path, tmp_path / "back")
