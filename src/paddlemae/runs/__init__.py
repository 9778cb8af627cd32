"""What a run folder holds: its records, figures and exhibits. Imports no Paddle."""
