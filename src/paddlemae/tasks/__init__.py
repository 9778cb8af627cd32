"""The tasks behind the commands: each builds its parts and hands them to `train`."""
