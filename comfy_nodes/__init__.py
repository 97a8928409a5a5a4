"""Collect, judge, train and load inside ComfyUI."""
