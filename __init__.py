"""MaPO Studio: judge pairs of pictures, get a LoRA that paints more like your taste.

This file imports nothing: hosts execute it at their start, under a module name of their own choosing.
"""
