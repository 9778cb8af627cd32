"""What tensors don't tell: settings, assumptions, and the configuration files next to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from paddlemae.weights.formats.state_dict import Opaque
from paddlemae.weights.layouts import import_weights
from tests.support import layout_models as work
from tests.support.layout_cases import CASES, Case, changed
from tests.support.layout_checks import assert_bitwise, assert_close, our_result, read, their_result

MAE = CASES["official: pretrained"]
HF_MAE, HF_VIT = (CASES[f"transformers: {name}"] for name in ("ViTMAEForPreTraining", "ViTForImageClassification"))
PYTORCH = CASES["mae-pytorch: pretrained"]


def said(case: Case, **arguments: Any) -> str:
    return "\n".join(read(case, **arguments).notes)


def test_heads_of_unknown_widths_must_be_named() -> None:
    with pytest.raises(ValueError, match="how many attention heads share a width of 16; name heads="):
        read(MAE, heads=None)
    with pytest.raises(ValueError, match="share a width of 8; name decoder_heads="):
        read(MAE, decoder_heads=None)
    with pytest.raises(ValueError, match="a width of 16 is not divisible by 3 heads"):
        read(MAE, heads=3)
    with pytest.raises(ValueError, match="heads must be a whole number from 1, got 0"):
        read(MAE, heads=0)


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16)])
def test_published_widths_have_their_heads_and_that_is_reported(width: int, heads: int) -> None:
    tensors = {"cls_token": (1, 1, width), "pos_embed": (1, 2, width), "norm.weight": (width,), "norm.bias": (width,)}
    tensors |= {"patch_embed.proj.weight": (width, 1, 1, 1), "patch_embed.proj.bias": (width,)}
    tensors |= work.official_block("blocks.0", width, 8, paddle=False)
    source = import_weights(work.weights(tensors))
    assert source.architecture["num_heads"] == heads
    assert f"heads is not in the file: {heads}, as the published models of width {width} have" in "\n".join(
        source.notes
    )


def test_the_target_is_the_files_else_the_layouts_else_the_callers() -> None:
    def normalised(case: Case, **arguments: Any) -> bool:
        return read(case, **arguments).architecture["norm_pix_loss"]

    assert normalised(MAE) is False and "taken as False (raw pixels)" in said(MAE)
    assert normalised(PYTORCH) is True and "channels one by one" in said(PYTORCH)
    assert "taken as True (normalised pixels)" in said(PYTORCH)
    args = Opaque("argparse.Namespace", state={"norm_pix_loss": True, "input_size": 8, "model": "mae"})
    assert normalised(MAE, extras={"args": args}) and "norm_pix_loss" not in said(MAE, extras={"args": args})
    assert normalised(PYTORCH, extras={"args": {"normlize_target": False}}) is False
    assert normalised(MAE, extras={"args": args}, target="raw") is False
    assert normalised(HF_MAE) is True and normalised(HF_MAE, target="raw") is False
    with pytest.raises(ValueError, match="target must be 'normalised' or 'raw', got 'pixels'"):
        read(MAE, target="pixels")


def test_image_sizes_come_from_table_arguments_or_caller() -> None:
    wide = CASES["official: pretrained, 8 x 12"]
    assert read(wide).architecture["image_size"] == [8, 12], "its computed table says so"
    learned = CASES["mae-pytorch: fine-tuned, learned"]
    with pytest.raises(ValueError, match=r"pos_embed has 6 patches, no square; name image_size=\(height, width\)"):
        read(learned, image_size=None)
    assert read(learned, image_size=[12, 8]).architecture["image_size"] == [12, 8]
    with pytest.raises(ValueError, match=r"has 6 patches, an image of 8 x 8 with patches of 4 x 4 has 4; name the"):
        read(learned, image_size=8)
    with pytest.raises(ValueError, match="an image size of 9 x 8 is not divisible"):
        read(MAE, image_size=(9, 8))
    with pytest.raises(ValueError, match=r"args.input_size must be one or two whole numbers of pixels, got 'large'"):
        read(MAE, extras={"args": {"input_size": "large"}})
    args = {"args": Opaque("argparse.Namespace", state={"input_size": 8})}
    assert read(PYTORCH, image_size=None, extras=args).architecture["image_size"] == [8, 8]
    assert "taken as 224" in said(PYTORCH, image_size=None)


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_only_computed_tables_are_recognised(stored: str) -> None:
    def narrow(table: np.ndarray) -> np.ndarray:
        if stored == "bfloat16":  # as the readers widen it
            return ((table.astype(np.float32).view(np.uint32) + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)
        return table.astype(stored)

    tensors = changed(MAE, pos_embed=narrow(MAE.tensors["pos_embed"]))
    assert read(MAE, tensors=tensors).architecture["positions"] == "sincos2d"
    away = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}[stored]
    trained = MAE.tensors["pos_embed"] + np.random.default_rng(0).uniform(-away, away, (1, 5, 16)).astype(np.float32)
    trained[:, 0] = 0  # a cls row would tell by itself
    tensors = changed(MAE, pos_embed=narrow(trained))
    source = read(MAE, tensors=tensors)
    assert source.architecture["positions"] == "learned"
    assert "positions are learned, on a grid of 2 x 2" in "\n".join(source.notes)


def test_a_decoder_table_that_is_not_computed_is_kept_and_reported() -> None:
    tensors = changed(MAE, decoder_pos_embed=work.weights({"decoder_pos_embed": (1, 5, 8)})["decoder_pos_embed"])
    source = read(MAE, tensors=tensors)
    assert "decoder_pos_embed is not a computed table: it is kept" in "\n".join(source.notes)
    assert_close(our_result(source, MAE), their_result("official", tensors, MAE))


def test_an_encoder_says_what_it_cannot_do() -> None:
    assert "no decoder and no head" in said(CASES["official: encoder"])


def test_without_cls_token_and_pooled_norm_is_no_classifier() -> None:
    case = CASES["official: fine-tuned, cls"]
    tensors = changed(case, without="cls_token", pos_embed=case.tensors["pos_embed"][:, 1:])
    with pytest.raises(
        ValueError, match=r"neither a cls token nor a norm behind pooling \(cls_token, fc_norm.weight\)"
    ):
        read(case, tensors=tensors)


# transformers' and timm's configurations


def test_a_configuration_of_another_model_is_refused() -> None:
    for change, message in [
        (dict(layer_norm_eps=1e-5), "layer_norm_eps 1e-05; our models have 1e-06"),
        (dict(hidden_act="quick_gelu"), "hidden_act 'quick_gelu'; our blocks have the exact 'gelu'"),
        (dict(model_type="deit"), "model_type 'deit'; vit and vit_mae are read"),
        (dict(num_hidden_layers=3), "depth is 3 in the configuration and 2 by the tensors"),
        (dict(hidden_size=32), "embed_dim is 32 in the configuration and 16 by the tensors"),
        (dict(image_size=16), "has 4 patches, an image of 16 x 16 with patches of 4 x 4 has 16"),
        (dict(image_size=float("nan")), "image_size must be one or two whole numbers of pixels, got nan"),
        (dict(num_attention_heads="4"), "num_attention_heads must be a whole number from 1, got '4'"),
    ]:
        assert HF_VIT.config is not None
        with pytest.raises(ValueError, match=message):
            read(HF_VIT, config=HF_VIT.config | change)


def test_their_epsilon_is_taken_and_reported() -> None:
    assert HF_VIT.config is not None
    assert "layer_norm_eps 1e-12 and our models 1e-06" in said(HF_VIT, config=HF_VIT.config | {"layer_norm_eps": 1e-12})


def test_labels_and_pixel_statistics_come_along() -> None:
    source = read(HF_VIT)
    assert source.classes == [f"kind {number}" for number in range(5)]
    assert source.mean == work.MEAN and source.std == work.STD
    assert HF_VIT.config is not None
    placeholders = {"id2label": {str(number): f"LABEL_{number}" for number in range(5)}}
    assert read(HF_VIT, config=HF_VIT.config | placeholders).classes == []
    few = {"id2label": {"0": "cat"}}
    assert read(HF_VIT, config=HF_VIT.config | few).classes == []
    assert "another number of classes" in said(HF_VIT, config=HF_VIT.config | few)
    encoder = CASES["transformers: ViTModel"]
    assert encoder.config is not None
    source = read(encoder, config=encoder.config | few)
    assert source.classes == [] and "number of classes" not in "\n".join(source.notes), "an encoder has no classes"
    timm = read(CASES["timm: token"])
    assert timm.mean == work.MEAN and timm.std == work.STD


def test_version_5s_names_are_read() -> None:
    """What transformers 5.23 writes for a decoder, and has in memory."""
    disk = {name.replace("decoder_layers", "decoder_encoder.layer"): one for name, one in HF_MAE.tensors.items()}
    assert_bitwise(read(HF_MAE, tensors=disk).tensors, read(HF_MAE).tensors)
    memory = {
        name.replace("encoder.layer", "layers")
        .replace("attention.attention.query", "attention.q_proj")
        .replace("attention.attention.key", "attention.k_proj")
        .replace("attention.attention.value", "attention.v_proj")
        .replace("attention.output.dense", "attention.o_proj")
        .replace("intermediate.dense", "mlp.fc1")
        .replace("output.dense", "mlp.fc2"): one
        for name, one in HF_MAE.tensors.items()
    }
    assert_bitwise(read(HF_MAE, tensors=memory).tensors, read(HF_MAE).tensors)


def test_a_timm_model_that_ours_is_not_is_refused() -> None:
    for change, message in [
        (dict(global_pool="avg"), "pool is mean in the configuration and cls by the tensors"),
        (dict(architecture="resnet50"), "the architecture 'resnet50'; timm's vit_"),
        (dict(model_args=dict(num_heads=4, act_layer="quick_gelu")), "act_layer 'quick_gelu'"),
    ]:
        case = CASES["timm: token"]
        assert case.config is not None
        with pytest.raises(ValueError, match=message):
            read(case, config=case.config | change)


def test_a_configuration_that_is_not_used_is_reported() -> None:
    assert "its configuration is not used" in said(MAE, config={"model_type": "vit_mae"})


def test_biases_may_lack_only_where_the_layout_can_do_without() -> None:
    case = CASES["timm: avg, no bias"]
    source = read(case)
    assert source.converted["blocks.1.attn.qkv.bias"] == "zeros: the file has no bias here"
    with pytest.raises(ValueError, match="missing: blocks.0.attn.qkv.bias, blocks.1.attn.qkv.bias"):
        read(case, config=None, heads=work.HEADS)
