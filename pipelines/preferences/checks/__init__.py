"""Checks on prompts and pairs."""
