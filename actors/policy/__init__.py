"""The policy: a text-to-image model with a LoRA, its noise schedule, transition and sampler. Imports no Ray."""
