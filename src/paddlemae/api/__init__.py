"""Use PaddleMAE from Python: what `import paddlemae` loads from here, the commands' work in one call each."""
