"""Weights files of every supported format: recognised, read within limits, written."""
