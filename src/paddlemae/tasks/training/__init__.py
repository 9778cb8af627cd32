"""What all training commands share: start of a run, training run, evaluation, exhibits."""
