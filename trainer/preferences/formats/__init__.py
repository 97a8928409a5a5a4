"""Layouts of judged pairs in the wild, one file each."""
