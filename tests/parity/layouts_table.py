"""Prints how far our models are from what each layout computes, both ways, as a Markdown table.

python -m tests.parity.layouts_table
"""

from __future__ import annotations

import numpy as np

from paddlemae.engine import device
from paddlemae.weights.layouts import LAYOUTS
from tests.support.layout_cases import CASES, unshown_settings

COLUMNS = ("layout: file", "read: features", "prediction", "logits", "written to: largest of its own", "read again")


def main() -> None:
    device.prepare("cpu")  # before the next line imports Paddle
    from tests.support.layout_checks import differences, holds, our_result, read, their_result, write

    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for name, case in CASES.items():
        source = read(case)
        theirs = their_result(case.layout, case.tensors, case)
        found = differences(our_result(source, case), theirs)
        written, again = [], True
        for layout in LAYOUTS:
            if not holds(layout, source) or (layout == "timm" and case.kind == "mae"):
                continue
            out = write(layout, source)
            difference = max(differences(their_result(layout, out.tensors, case), theirs).values())
            back = read(case, tensors=out.tensors, config=out.config, extras=None, **unshown_settings(case)).tensors
            again &= all(np.array_equal(array, back[key]) for key, array in source.tensors.items())
            written.append(f"{layout} {difference:.0e}")
        figures = [f"{found[key]:.1e}" if key in found else "" for key in ("features", "prediction", "logits")]
        print(f"| {name} | {' | '.join(figures)} | {', '.join(written)} | {'bitwise' if again else 'DIFFERS'} |")


if __name__ == "__main__":
    main()
