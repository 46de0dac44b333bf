"""How the tiny checkpoints of the embedded world are made."""
