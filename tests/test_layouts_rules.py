"""What a layout's reader refuses, assumes and says, and what a writer can't hold."""

from __future__ import annotations

import time
from typing import Any

import layouts_at_work as work
import numpy as np
import pytest
from layouts_at_work import CASES, Case
from test_layouts import assert_bitwise, assert_close, our_result, read, their_result, write

from paddlemae.weights.layouts import import_weights, recognise
from paddlemae.weights.layouts.names import lies_as
from paddlemae.weights.tree import Opaque

MAE, CLASSIFIER, PROBE = (CASES[f"official: {name}"] for name in ("pretrained", "fine-tuned, mean", "probe"))
HF_MAE, HF_VIT = (CASES[f"transformers: {name}"] for name in ("ViTMAEForPreTraining", "ViTForImageClassification"))
PYTORCH = CASES["mae-pytorch: pretrained"]


def shapes(tensors: work.Tensors) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in tensors.items()}


def changed(case: Case, without: str = "", **more: Any) -> work.Tensors:
    return {name: array for name, array in case.tensors.items() if name != without} | more


def said(case: Case, **arguments: Any) -> str:
    return "\n".join(read(case, **arguments).notes)


# Recognising


def test_what_is_no_layout_names_the_nearest_and_what_it_lacks() -> None:
    resnet = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 512)}
    with pytest.raises(
        ValueError, match=r"no layout .* known here \(official, timm, .*the file holds conv1.weight, fc"
    ):
        recognise(resnet)
    nearly = {name: shape for name, shape in shapes(MAE.tensors).items() if name != "patch_embed.proj.weight"}
    with pytest.raises(ValueError, match=r"the nearest is official, of which patch_embed.proj.weight is missing"):
        recognise(nearly)
    half = {name: shape for name, shape in shapes(PYTORCH.tensors).items() if "encoder.patch" not in name}
    with pytest.raises(
        ValueError, match=r"nearest is mae-pytorch, of which encoder.patch_embed.proj.weight is missing"
    ):
        recognise(half)
    with pytest.raises(ValueError, match="the file holds nothing"):
        recognise({})


def test_a_files_wrapper_before_all_names_is_taken_off_and_said() -> None:
    wrapped = {f"module.{name}": array for name, array in MAE.tensors.items()}
    assert recognise(shapes(wrapped)) == "official"
    source = read(MAE, tensors=wrapped)
    assert_bitwise(source.tensors, read(MAE).tensors)
    assert "all names begin with 'module.'" in "\n".join(source.notes)


def test_linear_weights_that_lie_both_ways_are_refused_by_name() -> None:
    name = "blocks.1.mlp.fc1.weight"
    both = changed(MAE, **{name: MAE.tensors[name].T})
    with pytest.raises(ValueError, match=r"attn.qkv.weight \[48, 16\] is \[out, in\] and blocks.1.mlp.fc1.weight"):
        read(MAE, tensors=both)
    assert lies_as({"a.weight": (4, 4), "a.bias": (4,)}) is None


def test_a_layout_that_is_asked_for_must_lie_as_the_file_does() -> None:
    paddle = CASES["paddle: pretrained"]
    with pytest.raises(
        ValueError, match=r"lie \[in, out\], as in Paddle, and those of the layout official \[out, in\]"
    ):
        read(paddle, layout="official")
    with pytest.raises(ValueError, match="layout must be one of official, timm, "):
        read(paddle, layout="keras")


def test_square_linear_weights_turn_with_the_others() -> None:
    paddle = CASES["paddle: pretrained"]
    source = read(paddle)
    name = "blocks.0.attn.proj.weight"
    np.testing.assert_array_equal(source.tensors[name], paddle.tensors[name].T)
    assert source.converted[name] == "transposed" and "pos_embed" not in source.converted


# Every key


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (MAE, "decoder_blocks.0.mlp.fc2.bias"),
        (CASES["paddle: pretrained"], "norm.bias"),
        (CASES["timm: token"], "norm.weight"),
        (HF_MAE, "vit.encoder.layer.1.layernorm_after.bias"),
        (HF_MAE, "decoder.decoder_pred.bias"),
        (HF_VIT, "vit.encoder.layer.1.attention.attention.value.weight"),
        (HF_VIT, "vit.encoder.layer.1.attention.attention.key.bias"),
        (HF_VIT, "classifier.bias"),
        (PYTORCH, "encoder.blocks.1.norm1.weight"),
        (PYTORCH, "decoder.blocks.0.attn.v_bias"),
        (PYTORCH, "decoder.head.bias"),
        (CASES["paddlevit: MAE"], "encoder.layers.1.attn_norm.bias"),
        (CASES["paddlevit: MAE"], "decoder_position_embedding"),
    ],
    ids=str,
)
def test_a_missing_key_is_named_as_the_file_would(case: Case, name: str) -> None:
    with pytest.raises(ValueError, match=rf"missing: {name}(;|$)"):
        read(case, tensors=changed(case, without=name))


def test_missing_left_over_and_misshapen_keys_are_listed_together() -> None:
    tensors = changed(
        HF_MAE, without="vit.layernorm.bias", extra=np.zeros(3, np.float32), **{"decoder.mask_token": np.zeros((8,))}
    )
    text = r"missing: vit.layernorm.bias; left over: extra; of another shape: decoder.mask_token \[8\] for \[1, 1, 8\]$"
    with pytest.raises(ValueError, match=text):
        read(HF_MAE, tensors=tensors)


@pytest.mark.parametrize("prefix", ["blocks", "decoder_blocks"])
def test_a_block_that_is_left_out_is_named(prefix: str) -> None:
    number = {"blocks": 1, "decoder_blocks": 0}[prefix]
    renamed = {name.replace(f"{prefix}.{number}.", f"{prefix}.7."): one for name, one in MAE.tensors.items()}
    if prefix == "blocks":
        renamed = {name: one for name, one in renamed.items() if not name.startswith("decoder_blocks.7.")} | {
            name: one for name, one in MAE.tensors.items() if name.startswith("decoder_")
        }
    with pytest.raises(ValueError, match=rf"block {number} is missing, with {prefix}.{number}.norm1.weight"):
        read(MAE, tensors=renamed)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("blocks.0.ls1.gamma", "layer scale"),
        ("blocks.0.gamma_1", "layer scale"),
        ("reg_token", "register tokens"),
        ("blocks.0.attn.q_norm.weight", "norms of queries and keys"),
        ("patch_embed.norm.bias", "a norm in the patch embedding"),
        ("norm_pre.weight", "a norm before the first block"),
        ("dist_token", "a distillation token"),
        ("blocks.0.attn.relative_position_bias_table", "relative positions"),
        ("pre_logits.fc.weight", "a layer before the head"),
        ("decoder_blocks.0.cross_attn.q.weight", "a cross-attention decoder"),
    ],
)
def test_parts_that_our_models_have_not_are_refused_in_words(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf"have what our models have not: {words} \({name}\)$"):
        read(MAE, tensors=changed(MAE, **{name: np.ones(3, np.float32)}))


def test_what_training_leaves_beside_the_weights_is_left_over_with_its_reason() -> None:
    source = read(MAE, tensors=changed(MAE, **{"optimizer.step": np.zeros(1)}))
    assert source.left_over == {"optimizer.step": "the training's, not the model's"}
    assert read(PROBE).left_over == {"head.0.num_batches_tracked": "a counter of batch norm's"}


def test_two_names_for_one_tensor_are_refused() -> None:
    vit = CASES["paddlevit: ViT"]
    with pytest.raises(ValueError, match="position_embedding and encoder_position_embedding are both pos_embed"):
        read(vit, tensors=changed(vit, encoder_position_embedding=vit.tensors["position_embedding"]))


def test_a_decoder_and_a_head_are_not_one_model() -> None:
    with pytest.raises(ValueError, match="have a decoder and a head, decoder_embed.weight and head.weight"):
        read(MAE, tensors=changed(MAE, **{"head.weight": np.zeros((5, 16)), "head.bias": np.zeros(5)}))


def test_whole_numbers_and_empty_tensors_are_no_weights() -> None:
    with pytest.raises(ValueError, match="norm.bias is int64, weights are floats"):
        read(MAE, tensors=changed(MAE, **{"norm.bias": np.zeros(16, np.int64)}))
    with pytest.raises(ValueError, match="pos_embed is bool, weights are floats"):
        read(MAE, tensors=changed(MAE, pos_embed=np.ones((1, 5, 16), bool)))
    with pytest.raises(ValueError, match=r"norm.bias is empty, \[0\]"):
        read(MAE, tensors=changed(MAE, **{"norm.bias": np.zeros(0, np.float32)}))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_values_that_no_table_has_are_no_computed_table(value: float) -> None:
    table = MAE.tensors["pos_embed"].copy()
    table[0, 2:] = value
    tensors = changed(MAE, pos_embed=table)
    assert read(MAE, tensors=tensors).architecture["positions"] == "learned"


def test_names_cannot_make_work_or_memory_grow() -> None:
    began = time.perf_counter()
    for name in ("blocks.999999999.norm1.weight", f"blocks.{'9' * 5000}.norm1.weight", "a." * 50_000):
        with pytest.raises(ValueError):
            read(MAE, tensors=changed(MAE, **{name: np.zeros(16, np.float32)}))
    with pytest.raises(ValueError, match="no vision transformer has more than 20,000"):
        read(MAE, tensors={f"{number}": np.zeros(1) for number in range(20_001)} | MAE.tensors)
    args = {"args": {"input_size": 10**9}}
    with pytest.raises(ValueError, match="patches; name another image_size="):
        import_weights(PYTORCH.tensors, beside=args, heads=work.HEADS, decoder_heads=2)
    args = {"args": {"input_size": 4 * 10**8}}
    with pytest.raises(ValueError, match="missing: pos_embed"):
        read(MAE, tensors=changed(MAE, without="pos_embed"), beside=args)
    assert time.perf_counter() - began < 5


# Linear probes


def test_a_probes_batch_norm_with_weights_is_folded_too() -> None:
    affine = {"head.0.weight": np.linspace(0.5, 2, 16), "head.0.bias": np.linspace(-1, 1, 16)}
    tensors = changed(PROBE, **{name: array.astype(np.float32) for name, array in affine.items()})
    found = our_result(read(PROBE, tensors=tensors), PROBE)
    features = their_result("official", PROBE.tensors, PROBE).features
    assert features is not None and found.logits is not None
    mean, variance = (PROBE.tensors[f"head.0.running_{name}"] for name in ("mean", "var"))
    normed = (features - mean) / np.sqrt(variance + 1e-6) * affine["head.0.weight"] + affine["head.0.bias"]
    wanted = normed @ PROBE.tensors["head.1.weight"].T + PROBE.tensors["head.1.bias"]
    np.testing.assert_allclose(found.logits, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_probe_without_a_part_is_refused() -> None:
    with pytest.raises(ValueError, match="the linear probe in these weights has no head.0.running_var"):
        read(PROBE, tensors=changed(PROBE, without="head.0.running_var"))


# What tensors don't tell


def test_heads_of_unknown_widths_must_be_named_and_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="how many attention heads share a width of 16; name heads="):
        read(MAE, heads=None)
    with pytest.raises(ValueError, match="share a width of 8; name decoder_heads="):
        read(MAE, decoder_heads=None)
    with pytest.raises(ValueError, match="a width of 16 can't be shared by 3 heads"):
        read(MAE, heads=3)
    with pytest.raises(ValueError, match="heads must be a whole number from 1, got 0"):
        read(MAE, heads=0)


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16)])
def test_published_widths_have_their_heads_and_that_is_said(width: int, heads: int) -> None:
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
    assert normalised(MAE, beside={"args": args}) and "norm_pix_loss" not in said(MAE, beside={"args": args})
    assert normalised(PYTORCH, beside={"args": {"normlize_target": False}}) is False
    assert normalised(MAE, beside={"args": args}, target="raw") is False
    assert normalised(HF_MAE) is True and normalised(HF_MAE, target="raw") is False
    with pytest.raises(ValueError, match="target must be 'normalised' or 'raw', got 'pixels'"):
        read(MAE, target="pixels")


def test_image_sizes_are_told_by_the_table_the_arguments_or_the_caller() -> None:
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
        read(MAE, beside={"args": {"input_size": "large"}})
    args = {"args": Opaque("argparse.Namespace", state={"input_size": 8})}
    assert read(PYTORCH, image_size=None, beside=args).architecture["image_size"] == [8, 8]
    assert "taken as 224" in said(PYTORCH, image_size=None)


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
def test_a_computed_table_is_known_however_finely_it_is_stored_and_a_trained_one_is_not(stored: str) -> None:
    def narrow(table: np.ndarray) -> np.ndarray:
        if stored == "bfloat16":  # as the readers widen it
            return ((table.astype(np.float32).view(np.uint32) + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)
        return table.astype(stored)

    tensors = changed(MAE, pos_embed=narrow(MAE.tensors["pos_embed"]))
    assert read(MAE, tensors=tensors).architecture["positions"] == "sincos2d"
    away = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}[stored]
    trained = MAE.tensors["pos_embed"] + np.random.default_rng(0).uniform(-away, away, (1, 5, 16)).astype(np.float32)
    tensors = changed(MAE, pos_embed=narrow(trained))
    source = read(MAE, tensors=tensors)
    assert source.architecture["positions"] == "learned"
    assert "positions are learned, on a grid of 2 x 2" in "\n".join(source.notes)


def test_a_decoder_table_that_is_not_computed_is_kept_and_said() -> None:
    tensors = changed(MAE, decoder_pos_embed=work.weights({"decoder_pos_embed": (1, 5, 8)})["decoder_pos_embed"])
    source = read(MAE, tensors=tensors)
    assert "decoder_pos_embed is not a computed table: it is kept" in "\n".join(source.notes)
    assert_close(our_result(source, MAE), their_result("official", tensors, MAE))


def test_an_encoder_says_what_it_cannot_do() -> None:
    assert "no decoder and no head" in said(CASES["official: encoder"])


def test_without_cls_token_and_norm_behind_pooling_there_is_no_classifier() -> None:
    case = CASES["official: fine-tuned, cls"]
    tensors = changed(case, without="cls_token", pos_embed=case.tensors["pos_embed"][:, 1:])
    with pytest.raises(
        ValueError, match=r"neither a cls token nor a norm behind pooling \(cls_token, fc_norm.weight\)"
    ):
        read(case, tensors=tensors)


# transformers' and timm's configurations


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(layer_norm_eps=1e-5), "layer_norm_eps 1e-05; our models have 1e-06"),
        (dict(hidden_act="quick_gelu"), "hidden_act 'quick_gelu'; our blocks have the exact 'gelu'"),
        (dict(model_type="deit"), "model_type 'deit'; vit and vit_mae are read"),
        (dict(num_hidden_layers=3), "depth is 3 in the configuration and 2 by the tensors"),
        (dict(hidden_size=32), "embed_dim is 32 in the configuration and 16 by the tensors"),
        (dict(image_size=16), "has 4 patches, an image of 16 x 16 with patches of 4 x 4 has 16"),
        (dict(image_size=float("nan")), "image_size must be one or two whole numbers of pixels, got nan"),
        (dict(num_attention_heads="4"), "num_attention_heads must be a whole number from 1, got '4'"),
    ],
)
def test_a_configuration_of_another_model_is_refused(change: dict[str, Any], message: str) -> None:
    assert HF_VIT.config is not None
    with pytest.raises(ValueError, match=message):
        read(HF_VIT, config=HF_VIT.config | change)


def test_their_epsilon_is_taken_and_said() -> None:
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(global_pool="avg"), "pool is mean in the configuration and cls by the tensors"),
        (dict(architecture="resnet50"), "the architecture 'resnet50'; timm's vit_"),
        (dict(model_args=dict(num_heads=4, act_layer="quick_gelu")), "act_layer 'quick_gelu'"),
    ],
)
def test_a_timm_model_that_ours_is_not_is_refused(change: dict[str, Any], message: str) -> None:
    case = CASES["timm: token"]
    assert case.config is not None
    with pytest.raises(ValueError, match=message):
        read(case, config=case.config | change)


def test_a_configuration_that_is_not_used_is_said() -> None:
    assert "the configuration beside is not used" in said(MAE, config={"model_type": "vit_mae"})


def test_biases_may_lack_only_where_the_layout_can_do_without() -> None:
    case = CASES["timm: avg, no bias"]
    source = read(case)
    assert source.converted["blocks.1.attn.qkv.bias"] == "zeros: the file has no bias here"
    with pytest.raises(ValueError, match="missing: blocks.0.attn.qkv.bias, blocks.1.attn.qkv.bias"):
        read(case, config=None, heads=work.HEADS)


# Writing


def test_mae_pytorch_drops_key_biases_says_so_and_computes_the_same() -> None:
    source = read(PYTORCH)
    tensors = dict(source.tensors)
    rng = np.random.default_rng(0)
    for name in [name for name in tensors if name.endswith("qkv.bias")]:
        tensors[name] = rng.uniform(-1, 1, tensors[name].shape).astype(np.float32)
    biased = type(source)("official", "mae", source.architecture, tensors, {}, {})
    written = write("mae-pytorch", biased)
    assert "the bias of keys is dropped in 3 blocks" in "\n".join(written.notes)
    assert_close(our_result(biased, PYTORCH), their_result("mae-pytorch", written.tensors, PYTORCH))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_embed.bias": np.ones(8, np.float32)}, "decoder_embed has a bias that is not zero"),
        ({"pos_embed": np.ones((1, 4, 16), np.float32)}, "its positions are not the 1-D sine-cosine tables"),
        ({"decoder_pos_embed": np.ones((1, 4, 8), np.float32)}, "its positions are not the 1-D sine-cosine tables"),
    ],
)
def test_mae_pytorch_refuses_what_it_has_no_place_for(change: dict[str, np.ndarray], message: str) -> None:
    source = read(PYTORCH)
    other = type(source)("official", "mae", source.architecture, {**source.tensors, **change}, {}, {})
    with pytest.raises(ValueError, match=f"MAE-pytorch's layout can't hold this model: {message}"):
        write("mae-pytorch", other)


def test_a_cross_decoder_and_broken_tensors_are_not_written() -> None:
    source = read(MAE)
    cross = type(source)("official", "mae", source.architecture | {"decoder": "cross"}, source.tensors, {}, {})
    with pytest.raises(ValueError, match="the layout timm can't hold a cross-attention decoder"):
        write("timm", cross)
    short = {name: array for name, array in source.tensors.items() if name != "norm.bias"}
    with pytest.raises(ValueError, match="these tensors are no whole mae: missing: norm.bias"):
        write("official", type(source)("official", "mae", source.architecture, short, {}, {}))
    with pytest.raises(ValueError, match="layout must be one of official"):
        write("keras", source)


def test_what_is_written_says_what_surrounds_it() -> None:
    assert write("official", read(MAE)).wrapper == "model" and write("paddle", read(MAE)).wrapper is None
    written = write("transformers", read(HF_VIT))
    assert written.config is not None and written.config["id2label"]["4"] == "kind 4"
    assert written.files["preprocessor_config.json"]["image_mean"] == work.MEAN
    timm = write("timm", read(MAE))
    assert timm.config is not None and timm.config["num_classes"] == 0
    assert "the encoder alone is written" in "\n".join(timm.notes) and "mask_token" not in timm.tensors
    assert "its own" not in "\n".join(write("official", read(MAE)).notes)
    assert "the official code, whose models have one" in "\n".join(write("official", read(PYTORCH)).notes)
