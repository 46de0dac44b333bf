"""The Ray side of the actors: thin classes around the plain ones."""
