"""Run folders that earlier versions wrote are still read: reported, evaluated, exported and resumed.

runs-COMMIT.tar.gz holds tiny runs of that commit on the embedded digits: `pretrain`, and `finetune` and
`probe` from it, each finished after 6 steps, and each stopped after 3 as NAME-stopped. Figures were removed.
"""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.support.few_digits import use_few_digits
from tests.support.paths import ROOT

FIXTURES = ROOT / "tests" / "fixtures"
COMMITS = ("fea9812", "1e6c328")
KINDS = ("pretrain", "finetune", "probe")


@pytest.fixture(params=COMMITS)
def runs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which holds the runs of one commit; they name each other relative to it."""
    with tarfile.open(FIXTURES / f"runs-{request.param}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "checkpoints" / "step_00000006" / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_is_resumed_to_the_same_end(kind: str, runs: Path, paddlemae: Callable) -> None:
    done = paddlemae(kind, "--resume", "--out", f"{kind}-stopped", "--quiet")
    assert done.status == 0, done.err
    expected, found = weights(runs / kind), weights(runs / f"{kind}-stopped")
    assert expected.keys() == found.keys()
    for name, value in expected.items():  # another processor rounds otherwise
        keys = slice(None)
        if name.endswith("qkv.bias"):  # no output depends on the biases of keys: their gradients are rounding alone
            width = len(value) // 3
            keys = np.r_[:width, 2 * width : 3 * width]
        bound = 1e-4 * max(np.abs(value).max(), 1e-3)
        np.testing.assert_allclose(found[name][keys], value[keys], rtol=0, atol=bound, err_msg=name)


def test_runs_are_reported_together(runs: Path, paddlemae: Callable) -> None:
    done = paddlemae("report", *KINDS, *(f"{kind}-stopped" for kind in KINDS), "--out", "together")
    assert done.status == 0, done.err
    page = Path("together", "report.html").read_text()
    assert all(kind in page for kind in KINDS) and "damaged" not in page


def test_a_classifier_is_evaluated_as_it_was(runs: Path, paddlemae: Callable) -> None:
    done = paddlemae("evaluate", "finetune", "--data", "digits")
    assert done.status == 0, done.err
    last = json.loads(Path("finetune", "results.jsonl").read_text().splitlines()[-1])
    assert last["top1"] == pytest.approx(json.loads(Path("finetune", "result.json").read_text())["top1"], abs=0.002)


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_models_are_exported(kind: str, runs: Path, paddlemae: Callable) -> None:
    done = paddlemae("export", kind, "--to", "paddle", "--out", "exported")
    assert done.status == 0, done.err


def test_encoders_are_used(runs: Path, paddlemae: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    use_few_digits(monkeypatch)
    assert paddlemae("embed", "pretrain", "--data", "digits", "--out", "f.npz", "--quiet").status == 0
    assert paddlemae("knn", "pretrain", "--data", "digits").status == 0
