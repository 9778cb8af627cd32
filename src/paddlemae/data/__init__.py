"""Data: from a path to a batch of uint8 arrays; knows no model and imports no paddle."""
