"""The jobs: one folder a stage, each a driver over Ray libraries. `cli` is the command line."""
