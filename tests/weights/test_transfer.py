"""Weights on disk: the official MAE's names in PyTorch's layout, and every key accounted for."""

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.patches import patchify
from paddlemae.weights import transfer
from paddlemae.weights.transfer import load_official, official_shapes, official_state, to_official

# Patches of 2 x 3 pixels on a grid of 2 x 2; widths 8 (encoder) and 4 (decoder), hidden layers twice as wide.
SHAPE = dict(image_size=(4, 6), patch_size=(2, 3), channels=3, embed_dim=8, depth=1, num_heads=2, mlp_ratio=2.0)
DECODER = dict(decoder_embed_dim=4, decoder_depth=1, decoder_num_heads=2)


def block(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    """PyTorch's Linear weights are [out, in]."""
    return {
        f"{prefix}.norm1.weight": (width,),
        f"{prefix}.norm1.bias": (width,),
        f"{prefix}.attn.qkv.weight": (3 * width, width),
        f"{prefix}.attn.qkv.bias": (3 * width,),
        f"{prefix}.attn.proj.weight": (width, width),
        f"{prefix}.attn.proj.bias": (width,),
        f"{prefix}.norm2.weight": (width,),
        f"{prefix}.norm2.bias": (width,),
        f"{prefix}.mlp.fc1.weight": (2 * width, width),
        f"{prefix}.mlp.fc1.bias": (2 * width,),
        f"{prefix}.mlp.fc2.weight": (width, 2 * width),
        f"{prefix}.mlp.fc2.bias": (width,),
    }


ENCODER_SHAPES = {
    "cls_token": (1, 1, 8),
    "pos_embed": (1, 5, 8),
    "patch_embed.proj.weight": (8, 3, 2, 3),  # Conv2D: [D, C, height, width]
    "patch_embed.proj.bias": (8,),
    **block("blocks.0", 8),
}
MAE_SHAPES = {
    **ENCODER_SHAPES,
    "norm.weight": (8,),
    "norm.bias": (8,),
    "decoder_embed.weight": (4, 8),
    "decoder_embed.bias": (4,),
    "mask_token": (1, 1, 4),
    "decoder_pos_embed": (1, 5, 4),
    **block("decoder_blocks.0", 4),
    "decoder_norm.weight": (4,),
    "decoder_norm.bias": (4,),
    "decoder_pred.weight": (18, 4),
    "decoder_pred.bias": (18,),
}
CLASSIFIER_SHAPES = {
    **ENCODER_SHAPES,
    "fc_norm.weight": (8,),
    "fc_norm.bias": (8,),
    "head.weight": (5, 8),
    "head.bias": (5,),
}


def autoencoder(seed: int = 0) -> MaskedAutoencoder:
    paddle.seed(seed)
    return MaskedAutoencoder(**SHAPE, **DECODER)


def shapes_of(tensors: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def state(model: nn.Layer) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in official_state(model).items()}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_an_autoencoders_names_and_shapes_are_the_official_ones() -> None:
    tensors = to_official(autoencoder())
    assert shapes_of(tensors) == MAE_SHAPES == official_shapes(autoencoder())
    assert all(tensor.dtype == np.float32 and tensor.flags.c_contiguous for tensor in tensors.values())


def test_a_classifiers_names_and_shapes_are_the_official_ones() -> None:
    model = VisionTransformer(**SHAPE, num_classes=5)
    assert shapes_of(to_official(model)) == CLASSIFIER_SHAPES == official_shapes(model)
    by_cls = to_official(VisionTransformer(**SHAPE, num_classes=5, pool="cls"))
    assert "norm.weight" in by_cls and "fc_norm.weight" not in by_cls


def test_linear_weights_are_transposed_square_ones_too() -> None:
    model = autoencoder()
    tensors = to_official(model)
    in_memory = model.encoder.blocks[0].attn.proj.weight.numpy()
    assert tensors["blocks.0.attn.proj.weight"][2, 5] == in_memory[5, 2] != in_memory[2, 5]
    x = np.random.default_rng(0).random((7, 8), np.float32)
    by_torch_rule = x @ tensors["decoder_embed.weight"].T + tensors["decoder_embed.bias"]
    np.testing.assert_allclose(model.decoder.decoder_embed(paddle.to_tensor(x)).numpy(), by_torch_rule, atol=1e-6)


def test_the_patch_embedding_is_the_official_convolution() -> None:
    model = autoencoder()
    tensors = to_official(model)
    images = np.random.default_rng(0).random((2, 3, 4, 6), np.float32)
    wanted = np.zeros((2, 4, 8))
    for row in range(2):
        for column in range(2):
            window = images[:, :, 2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
            wanted[:, 2 * row + column] = np.einsum("bchw,dchw->bd", window, tensors["patch_embed.proj.weight"])
    got = model.encoder.patch_embed(patchify(paddle.to_tensor(images), (2, 3))).numpy()
    np.testing.assert_allclose(got, wanted + tensors["patch_embed.proj.bias"], atol=1e-6)


def test_weights_survive_the_way_out_and_in() -> None:
    source, target = autoencoder(1), autoencoder(2)
    assert not np.array_equal(source.decoder.decoder_pred.weight.numpy(), target.decoder.decoder_pred.weight.numpy())
    load_official(target, to_official(source))
    assert_same(state(source), state(target))


def test_a_key_that_does_not_fit_is_listed_and_nothing_is_set() -> None:
    for change, message in [
        (lambda t: t.pop("norm.bias"), "missing: norm.bias"),
        (lambda t: t.update(head_weight=np.zeros(1)), "left over: head_weight"),
        (
            lambda t: t.update({"decoder_embed.weight": t["decoder_embed.weight"].T}),
            r"of another shape: decoder_embed.weight \[8, 4\] for \[4, 8\]",
        ),
    ]:
        tensors, model = to_official(autoencoder(1)), autoencoder(2)
        before = state(model)
        change(tensors)
        with pytest.raises(ValueError, match=f"theirs do not fit the model; {message}$"):
            load_official(model, tensors, source="theirs")
        assert_same(before, state(model))


def test_all_faults_are_listed_together_and_long_lists_are_shortened() -> None:
    tensors = to_official(autoencoder())
    extra = {f"extra.{i}": np.zeros(1) for i in range(20)}
    tensors = {**{name: array for name, array in tensors.items() if not name.startswith("blocks")}, **extra}
    tensors["mask_token"] = np.zeros((4,))
    with pytest.raises(ValueError) as fault:
        load_official(autoencoder(), tensors)
    text = str(fault.value)
    assert "missing: blocks.0.norm1.weight" in text and "and 4 more; left over: extra.0" in text
    assert "extra.7 and 12 more; of another shape: mask_token [4] for [1, 1, 4]" in text


def test_named_parts_may_miss_or_be_ignored_but_no_others() -> None:
    source = to_official(autoencoder(1))
    model = VisionTransformer(**SHAPE, num_classes=5)
    head = model.head.weight.numpy().copy()
    decoder = ["norm", "mask_token", *(f"decoder_{part}" for part in ("embed", "pos_embed", "blocks", "norm", "pred"))]
    load_official(model, source, may_miss=["head", "fc_norm"], may_ignore=decoder)
    np.testing.assert_array_equal(model.head.weight.numpy(), head)
    np.testing.assert_array_equal(to_official(model)["blocks.0.attn.qkv.weight"], source["blocks.0.attn.qkv.weight"])
    with pytest.raises(ValueError, match="left over: mask_token"):
        load_official(model, source, may_miss=["head", "fc_norm"], may_ignore=decoder[2:] + ["norm"])
    with pytest.raises(ValueError, match="missing: fc_norm.weight, fc_norm.bias$"):
        load_official(model, source, may_miss=["head"], may_ignore=decoder)
    with pytest.raises(ValueError, match="of another shape: head.weight"):
        load_official(
            model, {**source, "head.weight": np.zeros((6, 8))}, may_miss=["head", "fc_norm"], may_ignore=decoder
        )


def test_the_memory_of_each_tensor_is_given_back_once_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """benchmarks/weights.py measures what that saves."""
    model = MaskedAutoencoder(**SHAPE, **DECODER)
    tensors, given = to_official(model), []

    def release(array: np.ndarray) -> None:
        given.append(array)
        array[...] = np.nan  # whatever follows must not need it

    monkeypatch.setattr(transfer, "release", release)
    before = to_official(model)
    load_official(model, tensors)
    assert {id(array) for array in given} == {id(array) for array in tensors.values()}
    for name, array in to_official(model).items():
        np.testing.assert_array_equal(array, before[name])
