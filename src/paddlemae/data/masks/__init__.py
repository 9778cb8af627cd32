"""Masks: the layouts in which people keep them, and the classes that their values mean."""
