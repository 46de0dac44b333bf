"""Weights of the dtype of their files are pages of these files, which all processes of a node share."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import nn

from actors.spatialscore import SpatialScoreConfig, build
from conf.rules import Dtype


def _mapped_files(parameters: Iterable[nn.Parameter]) -> set[str]:
    """The file in whose pages each parameter lies; "" for memory of this process."""
    found: set[str] = set()
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    for parameter in parameters:
        for bounds, *_, name in (fields for fields in maps if len(fields) in (5, 6)):
            start, end = (int(each, 16) for each in bounds.split("-"))
            if start <= parameter.data_ptr() < end:
                found.add(name if name.endswith(".safetensors") else "")
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_worker_holds_no_copy_of_a_frozen_backbone_that_is_stored_in_float32(vlm_dir: Path, dtype: Dtype) -> None:
    """In another dtype it must hold one."""
    model = build(SpatialScoreConfig(str(vlm_dir), 4096, dtype=dtype))
    frozen = [parameter for parameter in model.backbone.parameters() if not parameter.requires_grad]
    assert _mapped_files(frozen) == {str(vlm_dir / "model.safetensors") if dtype == "float32" else ""}
    assert _mapped_files(model.trainable().values()) == {""}


def test_a_bfloat16_backbone_is_mapped_as_it_is_published(vlm_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(vlm_dir, tmp_path / "vlm")
    weights = load_file(vlm_dir / "model.safetensors")
    file = tmp_path / "vlm" / "model.safetensors"
    save_file({name: value.bfloat16() for name, value in weights.items()}, file, {"format": "pt"})
    model = build(SpatialScoreConfig(str(tmp_path / "vlm"), 4096, dtype="bfloat16"))
    assert _mapped_files(p for p in model.backbone.parameters() if not p.requires_grad) == {str(file)}
