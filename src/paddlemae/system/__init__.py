"""Safe use of the operating system: files, locks, signals, limits. Imports no Paddle."""
