"""Pretraining of the tiny FLUX and Qwen2.5-VL checkpoints of the embedded world."""
