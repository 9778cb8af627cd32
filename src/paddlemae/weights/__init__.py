"""Weights on disk, and their way into and out of models. Knows no architecture."""
