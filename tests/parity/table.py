"""Prints how far PaddleMAE is from transformers, case by case, as a Markdown table.

python -m tests.parity.table           # against the goldens, without PyTorch
python -m tests.parity.table --live    # against PyTorch, ViT-Base included
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from paddlemae.engine import device
from tests.parity import cases

COLUMNS = ("case", "prediction", "loss", "gradients", "weights", "prediction after", "key biases after")


def expected(live: bool) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """What PyTorch gives for each case, one at a time: ViT-Base's gradients and weights fill a gigabyte."""
    if live:
        from tests.parity import make_goldens

        for name, case in cases.CASES.items():
            yield name, make_goldens.run(case)
    else:
        for name in cases.GOLDEN_CASES:
            with np.load(cases.golden(name)) as arrays:
                yield name, dict(arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", action="store_true", help="run PyTorch too, instead of reading the goldens")
    live = parser.parse_args().live
    device.prepare("cpu")  # before the next line imports Paddle
    from tests.parity import compare

    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    allowed = (compare.PREDICTION, compare.LOSS, compare.GRADIENT, compare.WEIGHT, compare.PREDICTION)
    print("| allowed | " + " | ".join(f"{limit:.0e}" for limit in allowed) + " | noise, see `compare.Errors` |")
    for name, numbers in expected(live):
        errors = compare.compare(cases.CASES[name], numbers)
        before = (errors.prediction, errors.loss, errors.gradients[0])
        after = (errors.weights[0], errors.trained_prediction, errors.key_bias_weights)
        print(f"| {name} | " + " | ".join(f"{figure:.1e}" for figure in before + after) + " |", flush=True)


if __name__ == "__main__":
    main()
