"""The comparison of segmenters: every arm is trained once, rows are kept, and the U-Net is what it says."""

import warnings

import numpy as np
import pytest

from benchmarks import segmentation, unet
from benchmarks.segmentation import ARMS, Bench, Plan, table
from tests.support.coloured_scenes import write_scenes


def test_a_unet_has_about_a_million_weights_and_keeps_the_size() -> None:
    import paddle

    model = unet.UNet(3, 5)
    model.eval()
    assert 0.8e6 < sum(parameter.size for parameter in model.parameters()) < 1.2e6
    assert model(paddle.zeros([2, 3, 24, 40])).shape == [2, 5, 24, 40]


def test_a_unet_learns(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(unet, "WIDTH", 4)
    data = str(write_scenes(tmp_path / "land", train=8, test=3))
    row = unet.run(data, labels=None, size=16, batch_size=4, seed=0, steps=40)
    worse = unet.run(data, labels="50%", size=16, batch_size=4, seed=0, steps=1)
    assert row["miou"] > worse["miou"] and row["steps"] == 40 and worse["images"] == 4
    timed = unet.run(data, labels=None, size=16, batch_size=4, seed=0, seconds=0.5, short_side=16)
    assert timed["steps"] >= 1 and timed["seconds"] < 10


@pytest.mark.parametrize("wrong", [dict(size=20, steps=1), dict(size=16), dict(size=16, steps=1, seconds=1.0)])
def test_what_can_not_be_trained_is_one_line(wrong) -> None:
    with pytest.raises(ValueError):
        unet.run("unmade", labels=None, batch_size=4, seed=0, **wrong)


@pytest.mark.slow
def test_a_comparison_trains_each_arm_once_and_resumes(tmp_path, monkeypatch, capsys) -> None:
    data = str(write_scenes(tmp_path / "land", train=40, test=3))
    tiny = Plan(size=16, patch_size=8, pretrain_steps=2, batch_size=4, steps=(2, 2), segment_batch=2)
    monkeypatch.setattr(segmentation, "PLANS", {"land": tiny})
    monkeypatch.setattr(unet, "WIDTH", 4)
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
