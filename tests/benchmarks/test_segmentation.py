"""The comparison of segmenters: every arm is trained once, and rows are kept."""

import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import benchmarks
from benchmarks import segmentation
from benchmarks.segmentation import ARMS, Bench, Plan, table
from tests.support.coloured_scenes import write_scenes


@pytest.mark.slow
def test_a_comparison_trains_each_arm_once_and_resumes(tmp_path, monkeypatch, capsys) -> None:
    data = str(write_scenes(tmp_path / "land", train=40, test=3))
    tiny = Plan(size=16, patch_size=8, pretrain_steps=2, batch_size=4, steps=(2, 2), segment_batch=2)
    monkeypatch.setattr(segmentation, "PLANS", {"land": tiny})
    unet = SimpleNamespace(
        run=lambda *_, seconds, **__: {"miou": 0.5, "seconds": seconds}
    )  # the real one needs PyTorch
    monkeypatch.setitem(sys.modules, "benchmarks.unet", unet)
    monkeypatch.setattr(benchmarks, "unet", unet, raising=False)
    model = (("size", "mini"), ("embed_dim", 16), ("depth", 1), ("num_heads", 2))
    bench = Bench(tmp_path / "out", 0.02, model)
    bench.out.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of trainings this short
        bench.run({"land": data}, [0])
        rows = bench.rows()
        assert [(row["masks"], row["arm"]) for row in rows] == [
            (share, arm) for share in ("5%", "100%") for arm in ARMS
        ]
        (bench.out / "rows.jsonl").write_text("\n".join(map(segmentation.json.dumps, rows[:-1])) + "\n{torn")
        bench.run({"land": data}, [0])
    assert len(bench.rows()) == len(rows) and all(np.isfinite(row["miou"]) for row in rows)
    text = table(rows)
    assert text.count("\n| land, ") == 2 and "unet" in text
