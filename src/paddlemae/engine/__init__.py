"""Paddle on this machine: its import, device, threads, memory and private names."""
