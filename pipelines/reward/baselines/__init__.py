"""The models that SpatialScore is measured against, behind one interface: `judgements.PairJudge`."""
