"""The LoRA that a run starts from, as the ranks of the learner load it."""

from __future__ import annotations

from dataclasses import dataclass

from safetensors.torch import load

from actors.files import read_checked
from actors.policy.base import Policy


@dataclass(frozen=True)
class StartLora:
    """A safetensors file with the policy's own keys, and B in the scale of its `flux.lora_alpha`."""

    location: str
    """A path or URI that all ranks can read."""
    sha256: str

    def load_into(self, policy: Policy, *, is_reference: bool) -> None:
        """Makes it the policy's LoRA, and what `Policy.reference` computes with if `is_reference`.

        Raises DamagedFileError if the file has changed.
        """
        policy.load_lora(load(read_checked(self.location, self.sha256)))
        if is_reference:
            policy.freeze_reference()
