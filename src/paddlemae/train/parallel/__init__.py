"""Training on several devices, processes or CPU threads at once."""
