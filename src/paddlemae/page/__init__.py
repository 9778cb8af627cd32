"""One HTML file in which a model runs: masks are painted, and it predicts what is under them."""
