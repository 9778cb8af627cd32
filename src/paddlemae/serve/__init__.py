"""The server of `paddlemae serve`: HTTP, limits and the queue in front of a model; knows no Paddle and no model."""
