"""Stage 4: images of held-out prompts before and after training, their assessment, and a report."""
