"""Pairs whose images are more than 2 GiB in one column, and images that are decoded at the size the model sees."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from actors.spatialscore.resize import ImageBounds
from pipelines.common.images import encode_png
from pipelines.preferences.dataset.schema import SCHEMA
from pipelines.reward.data import read_place
from pipelines.reward.readers import WindowKey, read_group
from pipelines.reward.row_groups import find_rows
from pipelines.reward.sampler import make_sampler
from pipelines.reward.unreadable import UnreadableRow
from tests.support.pair_sources import ACCEPTED, source_of

GROUPS, ROWS, TEST_ROWS = 12, 60, 4
IMAGE = b"no image" + bytes(7 * 2**19)  # 3.5 MiB, as a PNG of 2048 x 2048. Nothing is lost on decoding it
MOST_ARROW = 2**29


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """720 pairs, of which those to train on have winners of 2.3 GiB. The file is small, because all images are one."""
    path = tmp_path_factory.mktemp("large")
    image = {"bytes": IMAGE, "path": None, "sha256": "a", "phash": ""}
    small = {"bytes": encode_png(np.zeros((16, 16, 3), np.uint8)), "path": None, "sha256": "b", "phash": ""}
    with pq.ParquetWriter(path / "0.parquet", SCHEMA, dictionary_pagesize_limit=2**24) as writer:
        for group in range(GROUPS):
            rows = [
                {
                    "pair_id": f"{(GROUPS - group) * ROWS + row:05d}",
                    "group_id": str(row),
                    "split": "test" if row < TEST_ROWS else "train",
                    "kind": "perturbed",
                    "prompt": "a red circle",
                    "image_w": image,
                    "image_l": small,
                    "n_perturb": 1,
                    "review": ACCEPTED,
                }
                for row in range(ROWS)
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    return path


def test_images_of_more_than_two_gib_are_read_in_little_memory(folder: Path) -> None:
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        sampler = make_sampler(source_of(folder), batch_size=48, epochs=1, window_rows=10**6, seed=0)
        (window,) = sampler.windows(0)
        key = WindowKey(0, 0, 0, 32)
        groups = [read_group(sampler, window, group, key, ImageBounds(256, 16)) for group in range(GROUPS)]
        held_out = [row for place in find_rows(source_of(folder), ("test",)) for row in read_place(place)]
    finally:
        pa.set_memory_pool(before)
    trained = [row for ranks in groups for rows in ranks for row in rows]
    assert len({row.pair_id for row in trained}) == len(trained) == GROUPS * (ROWS - TEST_ROWS)
    assert len(held_out) == GROUPS * TEST_ROWS
    assert not {row.pair_id for row in held_out} & {row.pair_id for row in trained}
    assert all(isinstance(row, UnreadableRow) and "readable" in row.reason for row in (*trained, *held_out))
    assert cast(int, pool.max_memory()) < MOST_ARROW


def test_a_limit_takes_the_first_ids_or_a_sample_of_all_files(folder: Path) -> None:
    source = source_of(folder)
    first = find_rows(source, ("test",), 20)
    assert [place.index for place in first] == list(range(GROUPS - 5, GROUPS)), "the last row groups have the first ids"
    sampled = find_rows(source, ("test",), 20, sample=True)
    assert sum(len(place.rows) for place in sampled) == 20 and len(sampled) > 5
    assert find_rows(source, ("test",), 20, sample=True) == sampled


@pytest.mark.parametrize("size", [(512, 512), (333, 517), (1080, 1920), (40, 4000), (20, 31), (448, 448), (2001, 1333)])
def test_a_decoded_image_equals_what_the_library_makes_of_it(size: tuple[int, int]) -> None:
    """Height and width are those of `smart_resize`, and pixels those of the image processor."""
    bounds = ImageBounds(200704, 28)
    assert bounds.target(*size) == smart_resize(*size, 28, 200704, 200704)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(image).resize((max(1, size[1] // 7), max(1, size[0] // 7))).resize(size[::-1]))
    if size[0] * size[1] > 4 * bounds.pixels:
        return  # `decode_image` shrinks it first, for scores and training alike
    library = Qwen2VLImageProcessorPil(min_pixels=200704, max_pixels=200704, do_normalize=False, do_rescale=False)
    patches = library([image], return_tensors="np")
    height, width = bounds.target(*size)
    decoded = bounds.decode(encode_png(image))
    expected = Qwen2VLImageProcessorPil(do_resize=False, do_normalize=False, do_rescale=False)
    assert decoded.shape == (height, width, 3)
    np.testing.assert_array_equal(expected([decoded], return_tensors="np")["pixel_values"], patches["pixel_values"])
