"""Paddle: importing it, selecting a device, tuning the CPU."""
