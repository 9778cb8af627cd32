"""Classify images without a network, for comparison: the commonest class, and linear models of classical features."""
