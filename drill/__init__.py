"""Drills: what must survive kills, signals and full disks, done for real."""
