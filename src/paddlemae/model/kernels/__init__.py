"""Formulas of the model's layers: the plain ones in `reference`, and faster ones of the same mathematics."""
