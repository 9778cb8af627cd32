"""Models from recipes, run folders and weights files; their inputs and outputs."""
