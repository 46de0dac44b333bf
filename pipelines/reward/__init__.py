"""Stage 2: trains SpatialScore on the preference pairs, measures it and serves it."""
