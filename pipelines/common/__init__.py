"""Helpers of several stages: paths, fingerprints, images, charts, intervals, seeds, prompts and the Ray session."""
