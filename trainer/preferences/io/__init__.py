"""Layouts in which judged pairs lie on disk."""
