"""Optimizers: what turns accumulated gradients into an optimizer step. Imports no Ray."""
