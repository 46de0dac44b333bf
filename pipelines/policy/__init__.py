"""Stage 3: top-k GRPO of FLUX against SpatialScore, as a loop over Ray actors."""
