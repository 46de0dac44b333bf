"""Stage 1: preference pairs, written, perturbed, painted and reviewed on Ray Data, saved as parquet."""
