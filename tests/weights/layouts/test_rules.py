"""What a layout's reader refuses, assumes and says, and what a writer can't hold."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from paddlemae.weights.formats.state_dict import tensors_of
from paddlemae.weights.layouts import import_weights, recognise
from paddlemae.weights.layouts.tensor_names import lies_as
from tests.support import layout_models as work
from tests.support.layout_cases import CASES, Case, changed
from tests.support.layout_checks import assert_bitwise, assert_close, our_result, read, their_result, write

MAE, PROBE = CASES["official: pretrained"], CASES["official: probe"]
HF_MAE, HF_VIT = (CASES[f"transformers: {name}"] for name in ("ViTMAEForPreTraining", "ViTForImageClassification"))
PYTORCH = CASES["mae-pytorch: pretrained"]


def shapes(tensors: work.Tensors) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in tensors.items()}


def said(case: Case, **arguments: Any) -> str:
    return "\n".join(read(case, **arguments).notes)


# Recognising


def test_what_is_no_layout_names_the_nearest_and_what_it_lacks() -> None:
    resnet = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 512)}
    with pytest.raises(ValueError, match=r"not a known layout .* \(official, timm, .*the file holds conv1.weight, fc"):
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


def test_a_files_wrapper_before_all_names_is_taken_off_and_reported() -> None:
    wrapped = {f"module.{name}": array for name, array in MAE.tensors.items()}
    assert recognise(shapes(wrapped)) == "official"
    source = read(MAE, tensors=wrapped)
    assert_bitwise(source.tensors, read(MAE).tensors)
    assert "all names begin with 'module.'" in "\n".join(source.notes)
    hf = {f"module.model.{name}": array for name, array in HF_VIT.tensors.items()}
    hf["module.model.vit.pooler.dense.bias"] = np.zeros(16, np.float32)
    source = read(HF_VIT, tensors=hf)
    assert_bitwise(source.tensors, read(HF_VIT).tensors)
    assert list(source.left_over) == ["module.model.vit.pooler.dense.bias"]
    del hf["module.model.vit.layernorm.bias"], hf["module.model.classifier.bias"]
    hf["module.model.vit.extra"] = np.zeros(1)
    text = "missing: module.model.vit.layernorm.bias, module.model.classifier.bias; left over: module.model.vit.extra$"
    with pytest.raises(ValueError, match=text):
        read(HF_VIT, tensors=hf)


@pytest.mark.parametrize(
    "prefix",
    ["backbone.", "_fsdp_wrapped_module.", "encoder.", "module._orig_mod.", "model.encoder.", "model.backbone."],
)
def test_names_behind_what_a_wrapper_is_called_are_the_models(prefix: str) -> None:
    source = read(MAE, tensors={f"{prefix}{name}": array for name, array in MAE.tensors.items()})
    assert_bitwise(source.tensors, read(MAE).tensors)


@pytest.mark.parametrize("marker", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
def test_what_wrappers_put_into_the_middle_of_names_is_taken_out(marker: str) -> None:
    inner = {name.replace("blocks.0.", f"blocks.0.{marker}"): array for name, array in MAE.tensors.items()}
    wrapped = {f"{marker}{name.replace('attn.', f'attn.{marker}')}": array for name, array in inner.items()}
    for tensors in (inner, wrapped):
        assert_bitwise(read(MAE, tensors=tensors).tensors, read(MAE).tensors)


@pytest.mark.parametrize("prefix", ["backbone", "encoder", "teacher.backbone"])
def test_a_vit_within_other_weights_is_named_and_taken_by_its_key(prefix: str) -> None:
    mixed = {f"{prefix}.{name}": array for name, array in PROBE.tensors.items() if not name.startswith("head")}
    mixed["projector.0.weight"] = np.zeros((3, 3), np.float32)
    with pytest.raises(ValueError, match=f"begin with '{prefix}.' are those of a ViT.*key={prefix} "):
        recognise(shapes(mixed))
    found = tensors_of({"state_dict": mixed}, f"state_dict.{prefix}")
    assert set(found.tensors) == {name for name in PROBE.tensors if not name.startswith("head")}
    assert found.others["others"] == "1 entries of other names"
    with pytest.raises(ValueError, match="no key .nothing. in the file"):
        tensors_of(mixed, "nothing")


def test_linear_weights_that_lie_both_ways_are_refused_by_name() -> None:
    name = "blocks.1.mlp.fc1.weight"
    both = changed(MAE, **{name: MAE.tensors[name].T})
    with pytest.raises(ValueError, match=r"attn.qkv.weight \[48, 16\] is \[out, in\] and blocks.1.mlp.fc1.weight"):
        read(MAE, tensors=both)
    assert lies_as({"a.weight": (4, 4), "a.bias": (4,)}) is None


def test_a_layout_that_is_asked_for_must_lie_as_the_file_does() -> None:
    paddle = CASES["paddle: pretrained"]
    with pytest.raises(
        ValueError, match=r"weights are \[in, out\], as in Paddle, but the layout official has them \[out, in\]"
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


def test_a_missing_key_is_named_as_the_file_would() -> None:
    for case, name in [
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
    ]:
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


def test_parts_that_our_models_have_not_are_refused_in_words() -> None:
    for name, words in [
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
    ]:
        with pytest.raises(ValueError, match=rf"have tensors that PaddleMAE.s models lack: {words} \({name}\)$"):
            read(MAE, tensors=changed(MAE, **{name: np.ones(3, np.float32)}))


def test_other_training_state_is_left_over_with_its_reason() -> None:
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
        import_weights(PYTORCH.tensors, extras=args, heads=work.HEADS, decoder_heads=2)
    args = {"args": {"input_size": 4 * 10**8}}
    with pytest.raises(ValueError, match="missing: pos_embed"):
        read(MAE, tensors=changed(MAE, without="pos_embed"), extras=args)
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


def test_mae_pytorch_refuses_what_it_has_no_place_for() -> None:
    for change, message in [
        ({"decoder_embed.bias": np.ones(8, np.float32)}, "decoder_embed has a bias that is not zero"),
        ({"pos_embed": np.ones((1, 4, 16), np.float32)}, "its positions are not the 1-D sine-cosine tables"),
        ({"decoder_pos_embed": np.ones((1, 4, 8), np.float32)}, "its positions are not the 1-D sine-cosine tables"),
    ]:
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
    with pytest.raises(ValueError, match="these tensors are an incomplete mae: missing: norm.bias"):
        write("official", type(source)("official", "mae", source.architecture, short, {}, {}))
    with pytest.raises(ValueError, match="layout must be one of official"):
        write("keras", source)


def test_a_floor_of_deviations_is_named_where_it_gets_lost() -> None:
    source = read(MAE)
    floored = type(source)("official", "mae", source.architecture | {"norm_pix_floor": 0.1}, source.tensors, {}, {})
    assert "norm_pix_floor=0.1 has no place" in "\n".join(write("official", floored).notes)
    assert "norm_pix_floor" not in "\n".join(write("official", source).notes)


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
