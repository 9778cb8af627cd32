"""The measurement of the server runs, and none of its clients fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.mark.slow
def test_clients_are_measured(tmp_path: Path) -> None:
    from paddlemae.model.mae import MaskedAutoencoder
    from paddlemae.tasks.models.build import describe
    from paddlemae.weights.model_folder import write_model
    from paddlemae.weights.transfer import to_official

    shape = dict(embed_dim=16, depth=1, num_heads=2, image_size=16, patch_size=4)
    model = MaskedAutoencoder(**shape, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
    write_model(tmp_path, to_official(model), describe(model, ([0.5] * 3, [0.2] * 3), eval_crop_ratio=1.0))
    command = [sys.executable, "-m", "benchmarks.serving", "--model", str(tmp_path), "--clients", "8", "--rounds", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "8 clients at once, 0 failed" in done.stdout and done.stdout.count("\n|") >= 8
