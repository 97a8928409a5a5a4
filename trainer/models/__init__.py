"""Base-model families: one file each. `open_base` in opening.py finds out which one a model is."""
