"""Rewards other than SpatialScore, behind the same interface (`base.Reward`). Imports no Ray."""
