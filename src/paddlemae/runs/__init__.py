"""Contents of a run folder: its records, figures and exhibits. Imports no Paddle."""
