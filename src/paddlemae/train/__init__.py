"""How any model is fitted: optimizer, loop and checkpoints. Knows no task."""
