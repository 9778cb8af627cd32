"""Encoded bytes of one image to an array of pixels."""
