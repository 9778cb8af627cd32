"""The command line: one module per group of commands, and how a process ends."""
