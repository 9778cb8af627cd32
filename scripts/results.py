"""Write docs/RESULTS.md: what was measured (docs/results/*.json) and what the paper reports.

python scripts/results.py [NAME=RUN ...]

Each RUN is a run folder whose figures are first taken into docs/results/NAME.json, as `paddlemae report` collects them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paddlemae.report.collect import collect
from paddlemae.report.results import majorities, majority_row, markdown_row
from paddlemae.runs.metrics import title_of

DOCS = Path(__file__).parent.parent / "docs"
PAGE, KEPT = DOCS / "RESULTS.md", DOCS / "results"
SHOWN_VOTES = "weighted"  # of kNN; the others are in the JSON

HEAD = """# Results

Made by `scripts/results.py` from the figures in `docs/results`, which `paddlemae report` collected from the run
folders named below. Everything under *Measured here* was; everything under *Cited* was not.

## Measured here

Two CPU cores, no accelerator. "Untrained" is the same encoder with random weights, "from scratch" the same schedule
without pretraining; ± is the standard deviation over seeds. A time is that of the training steps alone, on a machine
that did other work too.
"""

# He et al., arXiv 2111.06377: table 3 (fine-tuned) and the appendix (linear probe), after 1600 epochs of pretraining
CITED = {
    "ViT-B/16": ("83.6%", "68.0%", "base", "imagenet"),
    "ViT-L/16": ("85.9%", "75.8%", "large", "imagenet-large"),
    "ViT-H/14": ("86.9%", "76.6%", "huge", "imagenet-huge"),
}
CITED_HEAD = """
## Cited: ImageNet-1k, top-1

From the paper (He et al., arXiv 2111.06377), after 1600 epochs of pretraining on ImageNet-1k without labels. **None of
this was run here**; the [recipes](recipes.md) have the settings.

| model | fine-tuned | linear probe | recipes |
|---|---:|---:|---|
"""
CITED_FOOT = """
Partial fine-tuning of ViT-L/16 after 800 epochs (figure 9): 73.5% with no block, 79.1% with half a block, 81.0% with
one. The command: `paddlemae study imagenet-large --init RUN --data imagenet/ --out STUDY --vary trainable_blocks
--value 0 --value 0.5 --value 1`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="NAME=RUN")
    KEPT.mkdir(exist_ok=True)
    for name, run in (given.split("=", 1) for given in parser.parse_args().runs):
        (KEPT / f"{name}.json").write_text(json.dumps(collect([Path(run)]), indent=1) + "\n")
    kept = {path.stem: json.loads(path.read_text()).get("runs") for path in sorted(KEPT.glob("*.json"))}
    PAGE.write_text(
        HEAD + "".join(part for name, runs in kept.items() if runs for part in section(name, runs[0])) + cited()
    )
    print(f"wrote {PAGE}")


def section(name: str, run: dict[str, Any]) -> Iterator[str]:
    """Format one run: its recipe, its results, and the command behind each."""
    setup, totals = run["setup"], run["totals"]
    environment, data = setup["environment"], setup["data"]
    yield f"\n### {name}\n\n"
    yield (
        f"`{' '.join(environment['command'])}`: {totals['steps']:,} steps, {totals['epochs']:g} epochs of "
        f"{data['images']:,} images ({data['name']}), {totals['seconds'] / 60:.0f} min; "
        f"{setup['model']['parameters'] / 1e6:.2f} million parameters; "
        f"commit {(environment['commit'] or 'unknown')[:12]}.\n\n"
    )
    rows = [row for row in run["results"] if row["task"] != "knn" or SHOWN_VOTES in row["title"]]
    names = ", ".join(dict.fromkeys(title_of(row.get("metric", "top1")) for row in rows))
    yield f"| {names}, *measured* | pretrained | untrained | from scratch | points gained | what else it depends on |\n"
    yield "|---|---:|---:|---:|---:|---|\n"
    yield from (markdown_row(row, row["detail"]) + "\n" for row in rows)
    yield from (majority_row(one, one["detail"]) + "\n" for one in majorities(rows))
    commands = dict.fromkeys(cell["command"] for row in rows for cell in row["starts"].values())
    yield (
        "\nThe commands behind these numbers:\n\n<!-- not run: they take hours -->\n```\n"
        + "\n".join(commands)
        + "\n```\n"
    )


def cited() -> str:
    """Format the paper's results, each with the recipes that state how it was reached."""
    rows = [
        f"| {model} | {tuned} | {probed} | `pretrain {size}`, `finetune {finetuning}`, `probe imagenet` |\n"
        for model, (tuned, probed, size, finetuning) in CITED.items()
    ]
    return CITED_HEAD + "".join(rows) + CITED_FOOT


if __name__ == "__main__":
    main()
