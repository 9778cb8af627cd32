"""Detect losses far above their running mean; they are reported only."""

from __future__ import annotations

from paddlemae.train.checkpoint import TrainState

SPIKE = 3.0  # times the running mean
SPAN = 50  # steps that the mean runs over, about


def is_spike(state: TrainState, loss: float) -> bool:
    """Check if a step's loss is above `SPIKE` times the running mean of earlier ones, and update the mean.

    The mean is exponential, begins with the first loss, and takes spikes in too, so that a loss that stays high
    becomes the usual.
    """
    usual = loss if state.usual_loss is None else state.usual_loss
    state.usual_loss = usual + (loss - usual) / SPAN
    return loss > SPIKE * usual
