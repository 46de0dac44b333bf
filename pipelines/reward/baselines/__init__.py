"""The models that SpatialScore is compared with, behind one interface: `predictions.PairJudge`."""
