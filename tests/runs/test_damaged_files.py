"""A run's files, damaged: what reads them takes what is whole, or says in one line what is not."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest

from tests.fuzz import runfiles as runfiles_property

SEEDS = 120  # `make fuzz` runs tens of thousands
AT_ONCE = 20


@pytest.fixture(scope="module", autouse=True)
def whole_run_removed():
    yield
    shutil.rmtree(runfiles_property.whole_run())


@pytest.mark.parametrize("start", range(0, SEEDS, AT_ONCE))
def test_one_damaged_file_of_a_run_is_reported_in_a_line(tmp_path: Path, start: int) -> None:
    for seed in range(start, start + AT_ONCE):
        folder = tmp_path / str(seed)
        folder.mkdir()
        runfiles_property.check(seed, folder)
        shutil.rmtree(folder)


def test_a_whole_run_is_read_without_a_word(tmp_path: Path) -> None:
    """Else the property would hold of readers that refuse everything."""
    run = Path(shutil.copytree(runfiles_property.whole_run(), tmp_path / "run"))
    for name, (read, _) in runfiles_property.readers(run).items():
        if name not in ("resume", "start"):  # of a finished run, whose answers depend on the command
            assert not runfiles_property.ended(read, name), name


@pytest.mark.parametrize(
    "text", ["", "{}", "task: [", "task: cook", "\xff", "[" * 100_000, "task: finetune\nlabels: {}"]
)
def test_a_damaged_recipe_of_a_run_is_one_line(paddlemae, tmp_path: Path, text: str) -> None:
    run = Path(shutil.copytree(runfiles_property.whole_run(), tmp_path / "run"))
    (run / "recipe.yaml").write_bytes(text.encode("latin-1"))
    done = paddlemae("finetune", "--resume", "--out", run)
    assert done.status == 2 and done.err.count("\n") == 1


@pytest.mark.parametrize(
    "name", ["latin.yaml", "utf-16.yaml", "deep.yaml", "laughs.yaml", "merged.yaml", "itself.yaml"]
)
def test_a_recipe_that_is_no_text_or_a_bomb_is_one_line(paddlemae, tmp_path: Path, name: str) -> None:
    rows = [f"{a}: &{a} [{', '.join(['*' + b] * 9)}]" for a, b in zip("bcdefghi", "abcdefgh")]
    merged = [f"{a}: &{a} {{<<: [{', '.join(['*' + b] * 9)}]}}" for a, b in zip("bcdefghi", "abcdefgh")]
    contents = {
        "latin.yaml": "task: pretrain\n# caf\xe9\n".encode("latin-1"),
        "utf-16.yaml": "task: pretrain\n".encode("utf-16"),
        "deep.yaml": b"[" * 100_000,
        "laughs.yaml": "\n".join(["a: &a [x]", *rows]).encode(),
        "merged.yaml": "\n".join(["a: &a {x: 1}", *merged]).encode(),
        "itself.yaml": b"&a {task: *a}",
    }
    (tmp_path / name).write_bytes(contents[name])
    done = paddlemae("pretrain", tmp_path / name, "--data", "digits", "--dry-run")
    assert done.status == 2 and done.err.count("\n") == 1 and name in done.err


def test_a_recipe_with_a_byte_order_mark_and_aliases_is_read(tmp_path: Path) -> None:
    from paddlemae.recipe import load_recipe

    text = "training: &t {steps: 3}\n"
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_recipe("pretrain", str(tmp_path / "bom.yaml")).training.steps == 3


@pytest.mark.parametrize(
    "setting",
    ["epochs=1e308", "epochs=.inf", "mean=[.nan]", "std=[0.0]", "std=[1e-300]", "depth=1000000000", "image_size=1e9"]
    + ["num_heads=0", "batch_size=1e300", "seed=1e300", "channels=1000000000", "steps=!!int ''", "steps=[[[[[[[[["]
    + ["steps=" + "1" * 5000, "mask_ratio=!!timestamp 2026-99-99", "k" * 5000 + "=1"],
    ids=lambda text: text[:20],
)
def test_a_setting_beyond_all_bounds_is_one_line(paddlemae, setting: str) -> None:
    done = paddlemae("pretrain", "--data", "digits", "--dry-run", setting)
    assert done.status == 2 and done.err.count("\n") == 1 and len(done.err) < 2500


@pytest.mark.parametrize(
    "settings", [["embed_dim=1000000", "num_heads=1"], ["depth=10000", "embed_dim=49152"]], ids=str
)
def test_a_model_beyond_the_memory_is_refused_before_it_takes_any(paddlemae, tmp_path: Path, settings) -> None:
    shape = ["size=mini", "channels=1", "image_size=28", "batch_size=8", "steps=1", *settings]
    done = paddlemae("pretrain", "--data", "digits", "--out", tmp_path / "run", *shape)
    assert done.status == 2 and done.err.count("\n") == 1 and "GiB are free" in done.err
    assert not (tmp_path / "run").exists()


def test_thousands_of_overrides_are_read() -> None:
    from paddlemae.recipe import load_recipe

    overrides = [f"training.steps={number}" for number in range(1, 4097)]
    assert load_recipe("pretrain", None, overrides).training.steps == 4096


def test_trust_is_an_option_of_whoever_reads_checkpoints(paddlemae, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runfiles_property.whole_run(), tmp_path / "run"))
    step = run / "checkpoints" / "step_00000002"
    (step / "checksums.json").unlink()
    done = paddlemae("weights", "inspect", step)
    assert done.status == 2 and done.err.count("\n") == 1 and "--trust" in done.err
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = paddlemae("weights", "inspect", step, "--trust", "--json")
    assert done.status == 0 and json.loads(done.out) and "it is trusted" in done.err
