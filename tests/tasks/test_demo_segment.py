"""The demo of segmentation end to end, with a training too short to learn anything."""

import json

import pytest

from paddlemae.cli import demo_segment
from paddlemae.recipe import load_recipe

TINY = dict(embed_dim=16, depth=1, num_heads=2, threads=1, batch_size=8)


def test_it_leaves_runs_a_picture_and_its_figures(tmp_path, monkeypatch, capsys, few_digits) -> None:
    def load(task, name, overrides=None):
        decoder = {} if task == "segment" else dict(decoder_embed_dim=8, decoder_num_heads=2)
        steps = dict(steps=2, val_fraction=0.2) if task == "segment" else dict(steps=2)
        return load_recipe(task, name, {**(overrides or {}), **TINY, **decoder, **steps})

    monkeypatch.setattr(demo_segment, "load_recipe", load)
    monkeypatch.setattr(demo_segment, "LABELS", (60,))
    out = tmp_path / "demo"
    result = demo_segment.demo_segment(out)
    printed = capsys.readouterr().out
    assert (out / "scenes.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "demo.json").read_text())["miou"]["60"] == result["miou"][60]
    assert {"scratch", "pretrained"} == set(result["miou"][60])
    for start in ("scratch", "pretrained"):
        assert (out / f"segment-60-{start}-0" / "checkpoints" / "latest").exists()
    assert "60 scenes with masks" in printed and (out / "pretrain" / "report.html").exists()
    with pytest.raises(ValueError, match="already holds a run"):
        demo_segment.demo_segment(out)


def test_an_unknown_task_is_one_line(paddlemae) -> None:
    done = paddlemae("demo", "--task", "detect")
    assert done.status == 2 and done.err.count("\n") == 1
