"""Packs: WebDataset shards that PaddleMAE writes and reads."""
