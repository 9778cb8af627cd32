"""Every layout, both ways: what its own definition computes is what our models compute."""

from __future__ import annotations

import numpy as np
import pytest

from paddlemae.model.shape import tensor_shapes
from paddlemae.weights.layouts import LAYOUTS, recognise
from paddlemae.weights.transfer import official_shapes, to_official
from tests.support.layout_cases import CASES, Case, unshown_settings
from tests.support.layout_checks import (
    assert_bitwise,
    assert_close,
    build,
    holds,
    our_result,
    read,
    their_result,
    write,
)

LAYOUT_CASES = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


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
    assert tensor_shapes(source.kind, source.architecture) == wanted
    back = {name: array for name, array in to_official(model).items() if array.size}
    for name, array in back.items():
        np.testing.assert_array_equal(array, source.tensors[name], err_msg=name)


@LAYOUT_CASES
def test_it_is_written_in_every_layout_and_read_again(case: Case) -> None:
    source = read(case)
    for layout in LAYOUTS:
        if not holds(layout, source):
            with pytest.raises(ValueError, match="can't hold this model: "):
                write(layout, source)
            continue
        written = write(layout, source)
        assert all(array.flags.c_contiguous for array in written.tensors.values())
        got = their_result(layout, written.tensors, case)
        if layout == "timm" and case.kind == "mae":
            assert got.logits is None and got.prediction is None
            continue  # the encoder alone; test_timm_gets_the_encoder_of_an_autoencoder
        assert_close(got, their_result(case.layout, case.tensors, case))
        again = read(case, tensors=written.tensors, config=written.config, extras=None, **unshown_settings(case))
        assert again.layout == layout and again.kind == source.kind
        assert_bitwise(source.tensors, again.tensors)
        assert_bitwise(written.tensors, write(layout, again).tensors)
        changed = {key for key in source.architecture if source.architecture[key] != again.architecture[key]}
        assert changed <= {"norm_pix_loss"}  # not every layout says it
