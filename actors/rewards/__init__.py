"""Rewards other than SpatialScore, behind the same interface. Imports no Ray."""
