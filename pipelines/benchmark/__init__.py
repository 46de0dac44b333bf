"""Benchmarks: published prompts and questions, images of base and policy, judges, and the tables of scores."""
