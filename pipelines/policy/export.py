"""The trained LoRA as others load it: diffusers' file, and a model card that shows how."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from actors.flux.adapter import save_lora
from actors.learner import rank_file
from actors.records import PolicyWeights
from actors.storage import child, read_file
from conf.flux import EMBEDDED
from conf.settings import Settings
from pipelines.policy.checkpoint import run_checkpoints
from pipelines.scenes import checkpoints_dir

CARD = """---
base_model: {base}
library_name: diffusers
pipeline_tag: text-to-image
tags: [lora, flux, text-to-image, grpo, spatialscore]
---

# FLUX LoRA trained for spatial relations

Trained online against SpatialScore with top-k GRPO: policy version {version}{average}, rank {rank}, {iterations}
iterations of {prompts} prompts with {group} images each, the best and worst {top_k} of a group trained on.

```python
import torch
from diffusers import FluxPipeline

pipeline = FluxPipeline.from_pretrained("{base}", torch_dtype=torch.{dtype})
pipeline.load_lora_weights("{directory}")
image = pipeline(
    "{prompt}",
    height={height},
    width={width},
    num_inference_steps={steps},
    guidance_scale={guidance},
    max_sequence_length={length},
    generator=torch.Generator().manual_seed(0),
).images[0]
image.save("image.png")
```

How it was trained, in full: `settings.yaml` of the run.
"""


def flux_location(settings: Settings) -> str:
    """The policy's base model as from_pretrained finds it."""
    return str(checkpoints_dir("flux")) if settings.flux.model == EMBEDDED else settings.flux.model


def export_newest(settings: Settings) -> Path:
    """Exports the newest checkpoint of a run to `<run_dir>/policy/export`. Raises FileNotFoundError if it has none."""
    checkpoints = run_checkpoints(settings)
    newest = checkpoints.newest()
    if newest is None:
        raise FileNotFoundError(
            f"no complete checkpoint at {checkpoints.location}: run `spatialt2i policy train` first"
        )
    content = io.BytesIO(read_file(child(checkpoints.folder(newest.version), rank_file(0))))
    state = torch.load(content, map_location="cpu", weights_only=True)
    lora = state["ema"] if settings.evaluation.use_ema else state["lora"]
    weights = PolicyWeights(newest.version, {key: value.numpy() for key, value in lora.items()})
    return export_lora(weights, settings)


def export_lora(weights: PolicyWeights, settings: Settings) -> Path:
    """Writes `pytorch_lora_weights.safetensors` and `README.md`; FluxPipeline.load_lora_weights(directory) reads them.

    Returns the directory, `<run_dir>/policy/export`.
    """
    directory = Path(settings.run_dir, "policy", "export")
    state = {key: torch.from_numpy(np.array(value)) for key, value in weights.lora.items()}
    save_lora(state, settings.flux, directory)
    flux, policy = settings.flux, settings.policy
    card = CARD.format(
        base=flux_location(settings), version=weights.version, rank=flux.lora_rank,
        average=" (moving average)" if settings.evaluation.use_ema else "", iterations=policy.iterations,
        prompts=policy.prompts_per_step, group=policy.group_size, top_k=policy.top_k,
        dtype=flux.dtype, directory=directory.absolute(), prompt="a red circle left of a blue square",
        height=flux.height, width=flux.width, steps=settings.evaluation.steps, guidance=flux.guidance,
        length=flux.max_sequence_length,
    )  # fmt: skip
    partial = directory / "README.partial"
    partial.write_text(card)
    partial.replace(directory / "README.md")
    return directory
