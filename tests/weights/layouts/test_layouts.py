"""Every layout, both ways: what its own definition computes is what our models compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from paddlemae.model.mae import MaskedAutoencoder, decode, encode_visible
from paddlemae.model.masking import Mask
from paddlemae.model.vit import VisionTransformer, evaluating, features
from paddlemae.weights.layouts import (
    LAYOUTS,
    Exported,
    Imported,
    export_weights,
    import_weights,
    recognise,
)
from paddlemae.weights.layouts.architecture import expected_shapes
from paddlemae.weights.transfer import load_official, official_shapes, to_official
from tests.support import layout_models as work
from tests.support.layout_cases import CASES, Case, images_of, rows_of, told
from tests.support.layout_models import Result

TOLERANCE = 1e-4
LAYOUT_CASES = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def read(case: Case, **changed: Any) -> Imported:
    arguments: dict[str, Any] = dict(config=case.config, extras=case.extras) | case.arguments | changed
    tensors = arguments.pop("tensors", case.tensors)
    return import_weights(tensors, **arguments)


def write(layout: str, source: Imported) -> Exported:
    mean, std = source.mean or work.MEAN, source.std or work.STD
    return export_weights(
        layout, source.kind, source.architecture, source.tensors, mean=mean, std=std, classes=source.classes
    )


def build(source: Imported):
    kind = MaskedAutoencoder if source.kind == "mae" else VisionTransformer
    model = kind(**source.architecture)
    load_official(model, source.tensors, may_miss=["head"] if source.kind == "encoder" else [])
    return model


def our_result(source: Imported, case: Case) -> Result:
    """What our model makes of the case's images."""
    model, images = build(source), paddle.to_tensor(images_of(case))
    with paddle.no_grad(), evaluating(model):
        if source.kind == "mae":
            mask = Mask(*rows_of(case))
            prediction = decode(model, encode_visible(model, images, mask), mask).numpy()
            return Result(features(model, images, "mean").numpy(), prediction)
        found = features(model, images, source.architecture["pool"]).numpy()
        return Result(found, logits=model(images).numpy() if source.kind == "classifier" else None)


def their_result(layout: str, tensors: work.Tensors, case: Case) -> Result:
    return work.run(layout, tensors, images_of(case), *rows_of(case))


def differences(got: Result, wanted: Result) -> dict[str, float]:
    """The largest difference of each output over its largest magnitude."""
    found = {}
    for name in ("features", "prediction", "logits"):
        one, other = getattr(got, name), getattr(wanted, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert one.shape == other.shape
            found[name] = float(np.abs(one - other).max() / np.abs(other).max())
    return found


def assert_close(got: Result, wanted: Result) -> None:
    assert max(differences(got, wanted).values()) <= TOLERANCE, differences(got, wanted)


def assert_bitwise(one: work.Tensors, other: work.Tensors) -> None:
    assert list(one) == list(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def holds(layout: str, source: Imported) -> bool:
    """Whether a layout has a place for a model: what its definition has, written apart from the code."""
    shape = source.architecture
    if layout == "transformers":
        square = source.kind != "mae" or shape["image_size"][0] == shape["image_size"][1]
        return shape["cls_token"] and shape.get("pool") != "mean" and square
    if "mae-pytorch" in layout:
        unbiased = source.kind != "mae" or not source.tensors["decoder_embed.bias"].any()
        return not shape["cls_token"] and source.kind != "encoder" and unbiased
    return layout != "paddlevit" or shape["cls_token"]


@LAYOUT_CASES
def test_a_file_is_recognised_and_gives_what_its_layout_computes(case: Case) -> None:
    shapes = {name: array.shape for name, array in case.tensors.items()}
    assert recognise(shapes, case.config) == case.layout
    source = read(case)
    assert (source.layout, source.kind) == (case.layout, case.kind)
    assert source.architecture["image_size"] == list(case.image_size)
    assert_close(our_result(source, case), their_result(case.layout, case.tensors, case))


@LAYOUT_CASES
def test_what_is_read_is_exactly_what_the_model_has(case: Case) -> None:
    source = read(case)
    model = build(source)
    assert model.config == source.architecture
    wanted = {name: shape for name, shape in official_shapes(model).items() if 0 not in shape}
    assert {name: array.shape for name, array in source.tensors.items()} == wanted
    assert expected_shapes(source.kind, source.architecture) == wanted
    back = {name: array for name, array in to_official(model).items() if array.size}
    for name, array in back.items():
        np.testing.assert_array_equal(array, source.tensors[name], err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
@LAYOUT_CASES
def test_it_is_written_in_every_layout_that_can_hold_it_and_read_again(case: Case, layout: str) -> None:
    source = read(case)
    if not holds(layout, source):
        with pytest.raises(ValueError, match="can't hold this model: "):
            write(layout, source)
        return
    written = write(layout, source)
    assert all(array.flags.c_contiguous for array in written.tensors.values())
    wanted = their_result(case.layout, case.tensors, case)
    found = their_result(layout, written.tensors, case)
    if layout == "timm" and case.kind == "mae":
        assert found.logits is None and found.prediction is None
        return  # the encoder alone; test_timm_gets_the_encoder_of_an_autoencoder
    assert_close(found, wanted)
    again = read(case, tensors=written.tensors, config=written.config, extras=None, **told(case))
    assert again.layout == layout and again.kind == source.kind
    assert_bitwise(source.tensors, again.tensors)
    assert_bitwise(written.tensors, write(layout, again).tensors)
    changed = {key for key in source.architecture if source.architecture[key] != again.architecture[key]}
    assert changed <= {"norm_pix_loss"}  # not every layout says it
