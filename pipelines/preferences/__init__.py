"""Stage 1: preference pairs. Writes and perturbs prompts, generates and reviews images on Ray Data, saves parquet."""
