"""Weights files: read, checked, converted between layouts, loaded into models and written."""
