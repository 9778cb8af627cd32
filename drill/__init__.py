"""Drills: kill, signal and fill up the disk of real trainings, and check that nothing is lost."""
