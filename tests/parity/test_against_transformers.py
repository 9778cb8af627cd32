"""Parity with transformers, run side by side: PyTorch here and now, ViT-Base included."""

import pytest

from tests.parity import cases
from tests.parity.compare import assert_close, compare

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("name", cases.CASES)
def test_prediction_loss_gradients_and_ten_adamw_steps_agree(name: str) -> None:
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'paddlemae[parity]'")
    pytest.importorskip("transformers", reason="needs transformers: pip install 'paddlemae[parity]'")
    from tests.parity import make_goldens

    assert_close(compare(cases.CASES[name], make_goldens.run(cases.CASES[name])))
