"""One node a file."""
