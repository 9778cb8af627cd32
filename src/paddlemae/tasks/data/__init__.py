"""The `paddlemae data` commands, which inspect, measure and pack data sets."""
