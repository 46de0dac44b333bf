"""The policy: FLUX with a LoRA, its noise schedule, its stochastic transition and its sampler. Imports no Ray."""
