"""Base models: one file and one row of registry.py a family. `open_base` in open.py detects which one a model is."""
