"""Checks of prompts, and the search for near-duplicates."""
