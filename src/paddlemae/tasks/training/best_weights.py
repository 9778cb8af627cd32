"""Give a trained model the weights that count: those of the best checkpoint, or of the last step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.checkpoint_folders import FOLDER, check_intact, step_name
from paddlemae.weights.model_folder import read_tensors
from paddlemae.weights.transfer import load_official


@contextmanager
def best_weights(start: Start, state: TrainState, *, validated: bool) -> Iterator[int]:
    """Give a model that is not trained any more the weights that count; yields the step that they are of.

    These are the ones that `evaluate` and `load` take of the finished run, averages included.

    Args:
        validated: whether the best checkpoint counts, which a validation part chose, rather than the last step.
    """
    folder = start.ranks.from_first(lambda: _best_checkpoint(start, state)) if validated else None
    if folder is None:
        with state.averaged():
            yield state.step
        return
    load_official(state.model, read_tensors(Path(folder)), source=folder)
    yield int(state.best["step"])


def _best_checkpoint(start: Start, state: TrainState) -> str | None:
    """Return the folder of the best step; None, with a warning, where it is damaged or a full disk kept it out."""
    folder = start.out / FOLDER / step_name(int(state.best["step"]))
    try:
        check_intact(folder, whole=False, trust=start.trust)
    except (OSError, ValueError) as fault:
        warnings.warn(f"{fault}; the weights of the last step are tested instead", stacklevel=2)
        return None
    return str(folder)
