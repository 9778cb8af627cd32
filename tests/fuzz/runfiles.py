"""A run folder with one damaged file: whatever reads it takes what is whole, or says in one line what is not.

`check(seed, folder)` copies a small finished run into the folder, damages one of its files as the seed has it, and
calls all that reads such files. Each must succeed or end as a user's mistake does, and a damaged checkpoint must never
be read as if it were whole.
"""

from __future__ import annotations

import functools
import json
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddlemae.cli.exit_status import ending
from paddlemae.engine import device
from paddlemae.model.classifier import VisionTransformer
from paddlemae.recipe import dump_recipe, load_recipe
from paddlemae.report.collect import collect
from paddlemae.runs.exhibit_files import EXHIBIT_TITLES, read_exhibit, write_exhibit
from paddlemae.runs.runlog import (
    forget_metrics_after,
    is_finished,
    is_logged,
    log_metrics,
    log_result,
    log_skipped,
    mark_finished,
    newest_checkpoint,
    read_metrics,
    read_skipped,
    write_environment,
    write_recipe,
)
from paddlemae.tasks import study
from paddlemae.tasks.models.feature_file import Rows, read_file, write_file
from paddlemae.tasks.models.parts import ABOUT_FILE, Parts
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.training.run_start import Start, decide, origin_of, stored_recipe
from paddlemae.train.checkpoint import TrainState, load_checkpoint
from paddlemae.train.checkpoint_folders import FOLDER, find_checkpoint
from paddlemae.train.optim import adamw
from paddlemae.weights.model_folder import Description
from tests.support.train_states import save_checkpoint

RECIPE = ["size=mini", "image_size=8", "patch_size=4", "channels=1", "embed_dim=8", "depth=1", "num_heads=2"]
RECIPE += ["steps=2", "batch_size=4", "data=digits"]
HUGE = [0, -1, 1e308, float("nan"), 2**63, 10**30, 10**300, True, None, "", "x" * 5000, [], {}, [[1]], {"a": {}}]
MOST_LETTERS = 2000
STEPS = ("step_00000001", "step_00000002")


@functools.cache
def wanted_recipe() -> Any:
    return load_recipe("finetune", None, [*RECIPE, "init=scratch"])


def new_state() -> TrainState:
    """A training of the tiniest classifier, at its beginning."""
    shape: dict[str, Any] = dict(image_size=8, patch_size=4, channels=1, embed_dim=8, depth=1, num_heads=2)
    model = VisionTransformer(**shape, num_classes=2)
    return TrainState(model, adamw(model))


@functools.cache
def whole_run() -> Path:
    """A run folder of a classifier as a training leaves it, with features and their unfinished parts next to it."""
    device.prepare("cpu", threads=1)
    run = Path(tempfile.mkdtemp(prefix="paddlemae-whole-"))
    recipe = wanted_recipe()
    write_recipe(run, dump_recipe(recipe))
    write_environment(run)
    state = new_state()
    config = state.model.config
    description = Description("classifier", config, [0.5], [0.5], 1.0, ["a", "b"], {"images": 4, "init": "x"})
    state.model(paddle.zeros([2, 1, 8, 8])).mean().backward()
    state.optimizer.step()
    state.optimizer.clear_grad()
    for state.step in (1, 2):
        save_checkpoint(run, state, description, best=state.step == 1)
        log_metrics(run, state.step, state.step / 2, 1.0, loss=0.5, images_per_second=3.0)
    log_skipped(run, 1, "a.png", "it is none")
    log_result(run, [RESULT])
    (run / "result.json").write_text(json.dumps({"top1": 0.5, "top5": 1.0}))
    for part in EXHIBIT_TITLES:
        write_exhibit(run, part, {"classes": ["a", "b"], "counts": [[1, 0], [0, 1]], "items": [], "steps": []})
    mark_finished(run)
    about = dict(model="m", weights="w", data="digits", split=None, images=3, token="cls", layer=None, norm="layer")
    rows = Rows(np.arange(3), ["a", "b", "c"], ["x", "y", "z"], np.ones((3, 4), np.float32))
    for name in ("features.npz", "features.parquet"):
        write_file(run / name, lambda: iter([rows]), about)
    parts = run / "f.npz.parts"
    parts.mkdir()
    (parts / ABOUT_FILE).write_text(json.dumps(about))
    np.savez(parts / "00000000.npz", indices=np.arange(3), vectors=rows.vectors, reasons=np.array(["r"]))
    return run


RESULT = {"task": "knn", "start": "pretrained", "top1": 0.5, "protocol": {"k": 1}, "train_images": 4, "eval_images": 2}


def readers(run: Path) -> dict[str, tuple[Callable[[], Any], tuple[str, ...]]]:
    """All that reads a file of a run, each as a command has it, and which files that is."""
    recipe = wanted_recipe()
    images: Any = [None] * 4  # the length is all that is asked of a source
    parts = Parts(run / "f.npz.parts", images, 4, {"vectors": "f"}, "features")
    checkpoints = ("checkpoints/*", "checkpoints/*/*")
    return {
        "report": (lambda: json.dumps(collect([run])), ("*",)),
        "recipe": (lambda: stored_recipe(run, "finetune"), ("recipe.yaml",)),
        "named recipe": (lambda: load_recipe("finetune", str(run / "recipe.yaml")), ("recipe.yaml",)),
        "resume": (lambda: decide(Start(run, resume=True, quiet=True), recipe), ("recipe.yaml", *checkpoints)),
        "start": (lambda: decide(Start(run, quiet=True), recipe), ("recipe.yaml", "environment.json")),
        "origin": (lambda: origin_of(str(run)), checkpoints),
        "study": (lambda: study._read_result(run, recipe), ("recipe.yaml", "result.json")),
        "model": (lambda: read_checkpoint(run), checkpoints),
        "step": (lambda: read_checkpoint(run / FOLDER / STEPS[1]), checkpoints),
        "best": (lambda: read_checkpoint(run / FOLDER / "best"), checkpoints),
        "whole": (lambda: find_checkpoint(run, whole=True), checkpoints),
        "trusted": (lambda: read_checkpoint(run, trust=True), checkpoints),
        "state": (lambda: load_state(run / FOLDER / STEPS[1]), ("checkpoints/*/*",)),
        "npz": (lambda: read_file(run / "features.npz"), ("features.npz",)),
        "parquet": (lambda: read_file(run / "features.parquet"), ("features.parquet",)),
        "metrics": (lambda: list(read_metrics(run)), ("metrics.jsonl",)),
        "skipped": (lambda: list(read_skipped(run)), ("skipped.jsonl",)),
        "logged": (lambda: is_logged(run, RESULT), ("results.jsonl",)),
        "newest": (lambda: newest_checkpoint(run), checkpoints),
        "is finished": (lambda: is_finished(run), ("environment.json",)),
        "part": (lambda: parts._read(0, ["vectors", "reasons"]), ("f.npz.parts/*",)),
        "parts' note": (lambda: parts._different({}), ("f.npz.parts/*",)),
        **{part: (functools.partial(read_exhibit, run, part), (f"exhibits/{part}.json",)) for part in EXHIBIT_TITLES},
        # those that write, last
        "forget": (lambda: forget_metrics_after(run, 1), ("metrics.jsonl",)),
        "finish": (lambda: mark_finished(run), ("environment.json",)),
    }


def load_state(checkpoint: Path) -> None:
    """Load a checkpoint into a new training, without a look at its checksums: as --trust does where there are none."""
    load_checkpoint(checkpoint, new_state())


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """A file's bytes, damaged in one of many ways."""
    place = rng.randrange(len(raw)) if raw else 0
    way = rng.randrange(12)
    if way <= 1:
        return raw[:place]
    if way <= 4:
        return raw[:place] + bytes([raw[place] ^ (1 << rng.randrange(8))]) + raw[place + 1 :] if raw else b"x"
    if way == 5:
        return b""
    if way == 6:
        return rng.randbytes(rng.choice([1, 8, 100, 5000]))
    if way == 7:
        return raw[:place] + rng.randbytes(rng.randrange(1, 20)) + raw[place + rng.randrange(20) :]
    if way == 8:
        deep = rng.choice([100, 3000, 100_000])
        return rng.choice([b"[", b'{"a":', b"- ", b"{a: "]) * deep
    if way == 9:
        return raw + raw
    return changed_value(raw, rng)


def changed_value(raw: bytes, rng: random.Random) -> bytes:
    """A JSON or YAML text with one value of it replaced; other bytes with a number of theirs."""
    import yaml

    try:
        text = raw.decode()
        lines = text.splitlines() if text.startswith("{") and text.count("\n{") else [text]
        number = rng.randrange(len(lines))
        content = yaml.safe_load(lines[number])
        if not isinstance(content, (dict, list)):
            return json.dumps(rng.choice(HUGE)).encode()
        holders = list(_holders(content))
        holder, key = rng.choice(holders)
        holder[key] = rng.choice(HUGE)
        lines[number] = json.dumps(content)
        return "\n".join(lines).encode()
    except (ValueError, IndexError, yaml.YAMLError):
        place = rng.randrange(max(1, len(raw) - 8))
        return raw[:place] + rng.choice([0, 2**31, 2**62, 2**64 - 1]).to_bytes(8, "little") + raw[place + 8 :]


def _holders(content: Any):
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(pairs):
        yield content, key
        if isinstance(value, (dict, list)):
            yield from _holders(value)


def check(seed: int, folder: Path) -> None:
    """Damage one file of a run and read all; see the first lines."""
    rng = random.Random(seed)
    run = folder / "run"
    shutil.copytree(whole_run(), run)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    path = files[seed % len(files)]
    before = path.read_bytes()
    path.write_bytes(damaged(before, rng))
    is_damaged = path.read_bytes() != before
    for name, (read, files_read) in readers(run).items():
        if not any(path.relative_to(run).match(one) for one in files_read):
            continue
        said = ended(read, f"seed {seed}, {path.relative_to(run)}, {name}")
        if is_damaged and name == "whole" and path.parent.name == STEPS[1]:
            assert "step_00000002" in said, f"seed {seed}: damage of {path.name} is not said: {said!r}"
        if is_damaged and name in ("npz", "parquet"):
            assert_features(read, said, seed)


def ended(read: Callable[[], Any], where: str) -> str:
    """What a reader said: its warnings, or its error, each in a line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            read()
        except Exception as fault:
            end = ending(fault)
            assert end and end[0] == 2, f"{where}: {type(fault).__name__}: {fault}"
            assert not isinstance(fault, MemoryError), where
            text = str(fault)
        else:
            text = ""
    lines = [text, *(str(one.message) for one in caught)]
    for line in lines:
        assert "\n" not in line and len(line) < MOST_LETTERS, f"{where}: {line[:3000]!r}"
    return " ".join(lines)


def assert_features(read: Callable[[], Any], said: str, seed: int) -> None:
    """Refused, or exactly what was written."""
    if not said:
        found = read()
        assert (found.vectors == 1).all() and list(found.paths) == ["a", "b", "c"], f"seed {seed}: wrong features"
