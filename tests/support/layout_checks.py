"""Read and write a layout case, run it with our models and by its own definition, and compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle

from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.decoders.mae import decode
from paddlemae.model.encoder import encode_visible, evaluating, features
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.masking import Mask
from paddlemae.weights.layouts import Exported, Imported, export_weights, import_weights
from paddlemae.weights.transfer import load_official
from tests.support import layout_models as work
from tests.support.layout_cases import Case, images_of, rows_of
from tests.support.layout_models import Result

TOLERANCE = 1e-4


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
    """Run our model on the case's images."""
    model, images = build(source), paddle.to_tensor(images_of(case))
    with paddle.no_grad(), evaluating(model):
        if source.kind == "mae":
            mask = Mask(*rows_of(case))
            prediction = decode(model.decoder, encode_visible(model.encoder, images, mask), mask).numpy()
            return Result(features(model, images, "mean").numpy(), prediction)
        found = features(model, images, source.architecture["pool"]).numpy()
        return Result(found, logits=model(images).numpy() if source.kind == "classifier" else None)


def their_result(layout: str, tensors: work.Tensors, case: Case) -> Result:
    return work.run(layout, tensors, images_of(case), *rows_of(case))


def differences(got: Result, wanted: Result) -> dict[str, float]:
    """Return the largest difference of each output, relative to its largest magnitude."""
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
    """Return whether a layout can store a model, by that layout's definition and not by our code."""
    shape = source.architecture
    if layout in ("beit", "mmsegmentation"):  # of segmenters
        return source.kind == "segmenter"
    if layout == "transformers":
        square = source.kind != "mae" or shape["image_size"][0] == shape["image_size"][1]
        return shape["cls_token"] and shape.get("pool") != "mean" and square
    if "mae-pytorch" in layout:
        unbiased = source.kind != "mae" or not source.tensors["decoder_embed.bias"].any()
        return not shape["cls_token"] and source.kind != "encoder" and unbiased
    return layout != "paddlevit" or shape["cls_token"]
