"""What the operating system offers, used safely: files, locks, signals, limits. Imports no Paddle."""
