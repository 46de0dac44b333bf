"""`export.merged`: the whole pipeline with the trained LoRA merged into its transformer."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from actors.dtypes import DTYPES
from actors.folders import write_folder
from actors.policy.lora import adapter_key, lora_parameters
from actors.policy.lora_header import WEIGHT_NAME
from actors.policy.registry import family_of
from conf.merge import MergeSettings
from conf.rules import DTYPE_BYTES, Dtype
from pipelines.common.host_memory import PROCESS, stored_weights
from pipelines.common.merge_loss import MERGE_BYTES, MergeLoss, merge_loss, require_merge_memory, require_small_loss


def merge_lora(base: str, lora: Path, target: Path, dtype: Dtype, settings: MergeSettings) -> MergeLoss:
    """Writes the pipeline at `base` with an exported LoRA merged into its weights to the folder `target`.

    The merged weights are W + alpha/rank B A, computed in float32 and rounded to `merge.dtype`. The other parts of the
    pipeline have `dtype`. A plain `from_pretrained(target)` loads them. Raises UserError, and writes nothing, if
    rounding would lose more of the trained change than `merge.max_loss`, or, before anything is loaded, if this machine
    has too little memory.
    """
    pipeline_class: Any = family_of(base).pipeline_class
    folder = Path(base if Path(base).is_dir() else pipeline_class.download(base))
    require_merge_memory(base, partial(merge_memory, folder, dtype), settings.dtype)
    dtypes = {"transformer": DTYPES[_loaded_in(folder, settings.dtype)], "default": DTYPES[dtype]}
    pipeline: Any = pipeline_class.from_pretrained(folder, torch_dtype=dtypes)
    pipeline.load_lora_weights(lora, adapter_name="default")
    state = load_file(lora / WEIGHT_NAME)
    for name, parameter in lora_parameters(pipeline.transformer).items():  # diffusers has rounded them like the base
        parameter.data = state[f"transformer.{adapter_key(name)}"]
    loss = merge_loss(pipeline.transformer, settings.dtype)
    require_small_loss(loss, settings)
    pipeline.fuse_lora(components=["transformer"])  # adds in float32, and rounds once
    pipeline.unload_lora_weights()
    pipeline.transformer.to(DTYPES[settings.dtype])
    write_folder(target, pipeline.save_pretrained)
    return loss


def merge_memory(folder: Path, dtype: Dtype, merged: Dtype) -> int:
    """Bytes that `merge_lora` needs at its peak, for a base of `dtype` at `folder` and `merge.dtype` = `merged`."""
    transformer = stored_weights(folder / "transformer")
    others = sum(stored_weights(part).parameters for part in folder.iterdir() if part.name != "transformer")
    loaded = _loaded_in(folder, merged)
    # In bfloat16 the layers without a LoRA are read when they are saved, and no layer is being merged then.
    merging = MERGE_BYTES["float32"] * transformer.largest if loaded == "float32" else 0
    return PROCESS + DTYPE_BYTES[loaded] * transformer.parameters + DTYPE_BYTES[dtype] * others + merging


def _loaded_in(folder: Path, merged: Dtype) -> Dtype:
    """Weights that bfloat16 would round are merged before they are rounded."""
    return merged if stored_weights(folder / "transformer").dtypes == frozenset({"BF16"}) else "float32"
