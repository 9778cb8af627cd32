"""UPerNet's pyramid and heads, positions and blocks: as transformers' BeitForSemanticSegmentation computes them."""

import numpy as np
import pytest

from tests.parity.compare import named
from tests.parity.segmentation import CASES, GOLDEN_CASES, assert_close, errors, golden


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_logits_loss_and_gradients_are_those_of_the_goldens(name: str) -> None:
    with np.load(golden(name)) as arrays:
        expected = dict(arrays)
    assert_close(errors(CASES[name], expected))
    assert len(named(expected, "train gradient:")) > 100


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients_agree(name: str) -> None:
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'paddlemae[parity]'")
    pytest.importorskip("transformers", reason="needs transformers: pip install 'paddlemae[parity]'")
    from tests.parity import make_segmentation_goldens

    assert_close(errors(CASES[name], make_segmentation_goldens.run(CASES[name])))
