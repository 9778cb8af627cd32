"""Start, watch and restart the processes of a training that runs in several."""
