"""Segmenters in the layouts of mmsegmentation and of transformers' BEiT, both ways."""

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddlemae.model.segmenter import Segmenter
from paddlemae.tasks.models.build import describe, load_segmenter
from paddlemae.tasks.models.read_model import AS_THEY_SAY, read_checkpoint
from paddlemae.tasks.weights_convert import convert, inspect
from paddlemae.tasks.weights_verify import has_originals, verify
from paddlemae.weights.formats.torch_write import write_torch
from paddlemae.weights.layouts import export_weights, import_weights, recognise
from paddlemae.weights.model_folder import write_model
from paddlemae.weights.transfer import load_official, to_official

ENCODER = dict(embed_dim=16, depth=4, num_heads=2, image_size=[24, 24], patch_size=[4, 4], channels=3)
CLASSES = ["sky", "road", "tree"]
KEYS = slice(16, 32)
LAYOUTS = ("beit", "mmsegmentation")


def segmenter(**changes: Any) -> Segmenter:
    paddle.seed(0)
    keys = dict(ENCODER, num_classes=3, head="upernet", relative_positions=True, taps=[1, 2, 3, 4], positions="learned")
    model = Segmenter(**{**keys, **changes})
    random = np.random.default_rng(0)
    for name, tensor in model.state_dict().items():
        values = random.normal(size=tensor.shape).astype(np.float32)
        tensor.set_value(np.abs(values) + 1 if name.endswith("running_var") else values)
    model.eval()
    return model


def without_key_biases(model: Segmenter) -> dict[str, np.ndarray]:
    tensors = to_official(model)
    for name, array in tensors.items():
        if name.endswith("qkv.bias"):
            array[KEYS] = 0
    return tensors


def exported(layout: str, model: Segmenter):
    return export_weights(
        layout, "segmenter", model.config, to_official(model), mean=[0.5] * 3, std=[0.2] * 3, classes=CLASSES
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("relative_positions", [True, False])
def test_what_is_written_is_read_again(layout: str, relative_positions: bool) -> None:
    model = segmenter(relative_positions=relative_positions)
    written = exported(layout, model)
    assert recognise({name: array.shape for name, array in written.tensors.items()}, written.config) == layout
    read = import_weights(written.tensors, config=written.config, heads=2)
    wanted = without_key_biases(model) if layout == "beit" else to_official(model)
    tables = {name for name in read.tensors if name.endswith("bias_table")}
    for name in wanted:
        np.testing.assert_array_equal(read.tensors[name], wanted[name], err_msg=name)
    assert read.kind == "segmenter"
    if layout == "beit":  # the other one always has tables, and its file states neither taps nor classes
        assert read.architecture == model.config and read.classes == CLASSES
    else:
        assert len(tables) == 4 and (relative_positions or not any(read.tensors[name].any() for name in tables))
    again = Segmenter(**read.architecture)
    load_official(again, read.tensors)
    again.eval()
    pixels = paddle.rand([2, 3, 24, 24])
    expected = model(pixels).numpy()
    np.testing.assert_allclose(again(pixels).numpy(), expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


def foreign(layout: str, model: Segmenter, *, shared: bool = False) -> dict[str, np.ndarray]:
    """A file as others write it: layer scale, query and value biases apart, tables of positions."""
    tensors = dict(exported(layout, model).tensors)
    places = {"beit": ("beit.encoder.layer", "lambda"), "mmsegmentation": ("backbone.layers", "gamma")}
    place, scale = places[layout]
    layers = {
        "beit": ("attention.output.dense", "output.dense"),
        "mmsegmentation": ("attn.proj", "ffn.layers.1"),
    }[layout]
    for number in range(4):
        for one, layer in enumerate(layers, 1):
            factors = np.random.default_rng(number).uniform(0.5, 2, 16).astype(np.float32)
            tensors[f"{place}.{number}.{scale}_{one}"] = factors
            for kind in ("weight", "bias"):
                array = tensors[f"{place}.{number}.{layer}.{kind}"]
                tensors[f"{place}.{number}.{layer}.{kind}"] = array / factors.reshape(-1, *[1] * (array.ndim - 1))
        if layout == "mmsegmentation":
            bias = tensors.pop(f"{place}.{number}.attn.qkv.bias")
            tensors |= {f"{place}.{number}.attn.{one}_bias": bias[at : at + 16] for one, at in (("q", 0), ("v", 32))}
            tensors[f"{place}.{number}.attn.relative_position_index"] = np.zeros((37, 37), np.int64)
    if shared:
        name = "attention.attention.relative_position_bias.relative_position_bias_table"
        for number in range(5):
            table = tensors.pop(f"{place}.{number}.{name}")
            if number == 0:
                tensors["beit.encoder.relative_position_bias.relative_position_bias_table"] = table
    return tensors


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layer_scale_and_biases_apart_are_folded(layout: str) -> None:
    model = segmenter()
    config = exported(layout, model).config
    read = import_weights(foreign(layout, model), config=config, heads=2)
    for name, wanted in without_key_biases(model).items():
        np.testing.assert_allclose(read.tensors[name], wanted, rtol=1e-6, err_msg=name)
    assert not [name for name in read.left_over if "lambda" in name or "gamma" in name]


def test_a_table_for_all_blocks_is_given_to_each() -> None:
    model = segmenter()
    read = import_weights(foreign("beit", model, shared=True), config=exported("beit", model).config)
    for number in range(4):
        table = read.tensors[f"blocks.{number}.attn.relative_position_bias_table"]
        np.testing.assert_array_equal(table, to_official(model)["blocks.0.attn.relative_position_bias_table"])


def test_positions_that_a_beit_lacks_are_zero() -> None:
    model = segmenter()
    tensors, config = foreign("beit", model), exported("beit", model).config
    del tensors["beit.embeddings.position_embeddings"]
    read = import_weights(tensors, config=config)
    assert read.tensors["pos_embed"].shape == (1, 37, 16) and not read.tensors["pos_embed"].any()


def test_blocks_behind_the_last_tap_are_left_out() -> None:
    """transformers' models cannot tap the last one, and its published ones tap the tenth of twelve."""
    written = exported("beit", segmenter())
    assert written.config["num_hidden_layers"] == 5 and written.config["out_indices"] == [2, 3, 4, 5]
    config = {**written.config, "out_indices": [2, 2, 3, 4]}
    read = import_weights(written.tensors, config=config)
    assert (read.architecture["taps"], read.architecture["depth"]) == ([1, 1, 2, 3], 3)
    assert any(name.startswith("beit.encoder.layer.3.") for name in read.left_over)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(pool_scales=[1, 2]), r"pool_scales \[1, 2\]; our UPerNet has \[1, 2, 3, 6\]"),
        (dict(auxiliary_concat_input=True), "auxiliary_concat_input True"),
        (dict(model_type="vit"), "model_type 'vit', not beit"),
        (dict(out_indices=[1, 2, 3, 9]), "a pyramid of the blocks .* of an encoder of 5 blocks"),
    ],
)
def test_another_beit_is_refused(change, message: str) -> None:
    written = exported("beit", segmenter())
    with pytest.raises(ValueError, match=message):
        import_weights(written.tensors, config={**written.config, **change})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_that_do_not_fit_are_named_in_one_line(layout: str) -> None:
    model = segmenter()
    tensors, config = foreign(layout, model), exported(layout, model).config
    accepted = []
    for name, array in tensors.items():
        for other in (None, np.float32(1), np.zeros(7, np.float32), np.repeat(array[None], 2, axis=0)):
            changed = {key: each for key, each in tensors.items() if key != name}
            if other is not None:
                changed[name] = np.asarray(other)
            try:
                import_weights(changed, config=config, heads=2)
            except ValueError as fault:
                assert "\n" not in str(fault), (name, fault)
            else:
                accepted.append((name, other is None))
    optional = ("lambda_", "gamma_", "position", "num_batches", ".attn.q_bias", "pos_embed", "encoder.layer.4.")
    others = {name for name, _ in accepted if not any(part in name for part in optional)}
    assert not others


def test_no_table_is_made_for_images_without_end() -> None:
    model = segmenter()
    tensors, config = foreign("beit", model), exported("beit", model).config
    del tensors["beit.embeddings.position_embeddings"]
    with pytest.raises(ValueError, match="an image size of 1000000 x 1000000, and no table of positions"):
        import_weights(tensors, config={**config, "image_size": 1_000_000})


@pytest.mark.parametrize(
    ("layout", "changes", "message"),
    [
        (
            "beit",
            dict(head="linear"),
            "with the head upernet alone, and this is a segmenter with the head linear",
        ),
        ("mmsegmentation", dict(cls_token=False), "no cls token"),
        ("beit", dict(head_width=8), "the head has 8 channels and the encoder 16"),
        ("beit", dict(image_size=[24, 32]), "images and patches are square"),
        ("official", dict(), "no segmenters; use beit or mmsegmentation"),
        ("timm", dict(), "no segmenters"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(layout: str, changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exported(layout, segmenter(**changes))


def test_class_names_and_colours_come_from_mmsegmentations_file(tmp_path: Path) -> None:
    tensors = foreign("mmsegmentation", segmenter())
    palette = [[0, 0, 0], [1, 2, 3], [255, 0, 9]]
    for meta in (
        {"dataset_meta": {"classes": tuple(CLASSES), "palette": palette}},
        {"CLASSES": CLASSES, "PALETTE": palette},
    ):
        read = import_weights(tensors, extras={"meta": meta}, heads=2)
        assert read.classes == CLASSES and read.palette == palette
    other = import_weights(tensors, extras={"meta": {"CLASSES": CLASSES, "PALETTE": [[0, 0, 300]] * 3}})
    assert other.classes == CLASSES and other.palette is None
    write_torch(tmp_path / "upernet.pth", tensors, "state_dict")
    checkpoint = read_checkpoint(tmp_path / "upernet.pth")
    assert checkpoint.description.classes == ["0", "1", "2"]
    assert load_segmenter(checkpoint)(paddle.rand([1, 3, 24, 24])).shape == [1, 3, 24, 24]


@pytest.mark.parametrize(("layout", "out"), [("beit", "out"), ("mmsegmentation", "out.pth")])
def test_a_segmenter_is_converted_and_inspected(layout: str, out: str, tmp_path: Path) -> None:
    model = segmenter()
    (tmp_path / "model").mkdir()
    about = describe(model, ([0.4] * 3, [0.2] * 3), eval_crop_ratio=1.0, classes=CLASSES)
    write_model(tmp_path / "model", to_official(model), about)
    assert convert(tmp_path / "model", tmp_path / out, layout, AS_THEY_SAY)
    report = inspect(tmp_path / out, AS_THEY_SAY)
    assert (report["layout"], report["kind"], report["classes"]) == (layout, "segmenter", 3)
    checkpoint = read_checkpoint(tmp_path / out)
    if layout == "beit":
        assert checkpoint.description.classes == CLASSES and checkpoint.description.mean == [0.4] * 3


@pytest.mark.skipif(has_originals(), reason="compares with transformers, which are installed")
def test_a_segmenter_is_compared_with_transformers_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = segmenter()
    about = describe(model, ([0.4] * 3, [0.2] * 3), eval_crop_ratio=1.0, classes=CLASSES)
    write_model(tmp_path / "model", to_official(model), about)
    with pytest.raises(ValueError, match="are compared with transformers alone"):
        verify(tmp_path / "model", AS_THEY_SAY)


@pytest.mark.parity
@pytest.mark.parametrize("relative_positions", [True, False])
def test_transformers_reads_and_writes_the_same_model(relative_positions: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'paddlemae[parity]'")
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'paddlemae[parity]'")
    model = segmenter(relative_positions=relative_positions)
    (tmp_path / "model").mkdir()
    about = describe(model, ([0.4] * 3, [0.2] * 3), eval_crop_ratio=1.0, classes=CLASSES)
    write_model(tmp_path / "model", to_official(model), about)
    convert(tmp_path / "model", tmp_path / "beit", "beit", AS_THEY_SAY)
    theirs, loading = transformers.BeitForSemanticSegmentation.from_pretrained(
        tmp_path / "beit", output_loading_info=True
    )
    assert not any(loading.values()), loading
    theirs.eval()
    pixels = np.random.default_rng(0).normal(size=(2, 3, 24, 24)).astype(np.float32)
    wanted = model(paddle.to_tensor(pixels)).numpy()

    def close(found: np.ndarray) -> None:
        assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()

    with torch.no_grad():
        logits = theirs(torch.from_numpy(pixels)).logits
        close(torch.nn.functional.interpolate(logits, size=(24, 24), mode="bilinear").numpy())
    assert verify(tmp_path / "model", AS_THEY_SAY).holds and verify(tmp_path / "beit", AS_THEY_SAY).holds
    theirs.save_pretrained(tmp_path / "again")
    close(load_segmenter(read_checkpoint(tmp_path / "again"))(paddle.to_tensor(pixels)).numpy())
