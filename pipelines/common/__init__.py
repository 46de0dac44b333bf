"""What several stages share: paths, fingerprints, images, charts, intervals, seeds, prompts, the Ray session."""
