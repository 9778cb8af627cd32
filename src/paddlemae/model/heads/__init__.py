"""Heads of segmenters: logits from the maps of an encoder."""
