"""Segmenters that start from other models, and their way to disk and back."""

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.segmenter import Segmenter
from paddlemae.tasks.models.build import build_segmenter, describe, load_encoder, load_segmenter
from paddlemae.tasks.models.read_model import Checkpoint, read_checkpoint
from paddlemae.weights.model_folder import write_model
from paddlemae.weights.transfer import to_official

ENCODER = dict(embed_dim=16, depth=4, num_heads=4, image_size=8, patch_size=4, channels=3)
CLASSES = ["sky", "road", "tree"]
PALETTE = [[0, 0, 0], [128, 64, 128], [107, 142, 35]]
HEADS = ("linear", "conv", "upernet")


def saved(model, folder: Path, **facts) -> Checkpoint:
    """Write a model and read it again."""
    folder.mkdir()
    write_model(folder, to_official(model), describe(model, ([0.5] * 3, [0.2] * 3), eval_crop_ratio=1.0, **facts))
    return read_checkpoint(folder)


def randomised(model):
    """Give every weight and statistic another value than at the start."""
    rng = np.random.default_rng(0)
    for name, tensor in model.state_dict().items():
        values = rng.normal(size=tensor.shape).astype(np.float32)
        tensor.set_value(np.abs(values) if name.endswith("running_var") else values)
    return model


@pytest.mark.parametrize("head", HEADS)
def test_a_segmenter_comes_back_with_its_classes_and_colours(head: str, tmp_path) -> None:
    model = randomised(Segmenter(**ENCODER, num_classes=3, head=head))
    model.eval()
    checkpoint = saved(model, tmp_path / "model", classes=CLASSES, palette=PALETTE)
    assert checkpoint.description.classes == CLASSES and checkpoint.description.palette == PALETTE
    pixels = paddle.rand([2, 3, 8, 8])
    assert (load_segmenter(checkpoint)(pixels).numpy() == model(pixels).numpy()).all()


@pytest.mark.parametrize("kind", ["mae", "mean", "cls"])
@pytest.mark.parametrize("head", HEADS)
def test_the_encoder_of_other_models_is_taken(kind: str, head: str, tmp_path) -> None:
    other = (
        MaskedAutoencoder(**ENCODER, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
        if kind == "mae"
        else VisionTransformer(**ENCODER, num_classes=7, pool=kind)
    )
    checkpoint = saved(randomised(other), tmp_path / "model", classes=[] if kind == "mae" else list("abcdefg"))
    model = build_segmenter({**ENCODER, "num_classes": 3, "head": head}, checkpoint, 0, CLASSES)
    scratch, taken = to_official(build_segmenter({**ENCODER, "num_classes": 3, "head": head}, None, 0)), []
    for name, tensor in to_official(model).items():
        if name in checkpoint.tensors and (tensor == checkpoint.tensors[name]).all():
            taken.append(name)
        else:
            assert (tensor == scratch[name]).all(), name
    assert len([name for name in taken if name.startswith("blocks.")]) == 4 * 12
    assert ("norm.weight" in taken) == (kind != "mean" and head != "upernet")


@pytest.mark.parametrize("head", HEADS)
def test_a_head_is_kept_for_the_same_classes_only(head: str, tmp_path) -> None:
    trained = randomised(Segmenter(**ENCODER, num_classes=3, head=head))
    checkpoint = saved(trained, tmp_path / "model", classes=CLASSES, palette=PALETTE)
    arguments = {**ENCODER, "num_classes": 3, "head": head}
    same = to_official(build_segmenter(arguments, checkpoint, 0, CLASSES))
    assert all((same[name] == tensor).all() for name, tensor in to_official(trained).items())
    scratch = to_official(build_segmenter(arguments, None, 0))
    for classes in (["a", "b", "c"], ["a", "b"]):
        model = build_segmenter({**arguments, "num_classes": len(classes)}, checkpoint, 0, classes)
        found = to_official(model)
        assert (found["blocks.0.attn.qkv.weight"] == checkpoint.tensors["blocks.0.attn.qkv.weight"]).all()
        if len(classes) == 3:
            heads = [name for name in found if name.split(".")[0] in ("head", "neck", "auxiliary")]
            assert heads and all((found[name] == scratch[name]).all() for name in heads)


def test_another_kind_of_model_is_refused(tmp_path) -> None:
    classifier = VisionTransformer(**ENCODER, num_classes=3)
    with pytest.raises(ValueError, match="holds a classifier, which has no classes of pixels"):
        load_segmenter(saved(classifier, tmp_path / "model", classes=CLASSES))


def test_a_segmenter_gives_features(tmp_path) -> None:
    model = Segmenter(**ENCODER, num_classes=3)
    loaded = load_encoder(saved(model, tmp_path / "model", classes=CLASSES))
    assert isinstance(loaded, Segmenter)


@pytest.mark.parametrize("palette", [PALETTE[:2], [[0, 0]] * 3, [[0, 0, 256]] * 3])
def test_colours_that_do_not_fit_are_refused(palette, tmp_path) -> None:
    with pytest.raises(ValueError, match="is not a model description"):
        saved(Segmenter(**ENCODER, num_classes=3), tmp_path / "model", classes=CLASSES, palette=palette)


def test_relative_positions_begin_at_zero_are_kept_or_left_out(tmp_path, capsys) -> None:
    trained = randomised(Segmenter(**ENCODER, num_classes=3, relative_positions=True))
    checkpoint = saved(trained, tmp_path / "segmenter", classes=CLASSES)
    table = "blocks.1.attn.relative_position_bias_table"
    kept = build_segmenter({**ENCODER, "num_classes": 3, "relative_positions": True}, checkpoint, 0, CLASSES)
    assert (to_official(kept)[table] == checkpoint.tensors[table]).all()
    assert "left out" not in capsys.readouterr().err
    without = build_segmenter({**ENCODER, "num_classes": 3}, checkpoint, 0, CLASSES)
    assert table not in to_official(without)
    assert "relative positions left out; relative_positions=true keeps them" in capsys.readouterr().err
    plain = saved(VisionTransformer(**ENCODER, num_classes=3), tmp_path / "classifier", classes=CLASSES)
    new = build_segmenter({**ENCODER, "num_classes": 3, "relative_positions": True}, plain, 0, CLASSES)
    assert not to_official(new)[table].any()
