"""precision=bfloat16 against PyTorch's autocast: ours is no farther from float64, in prediction and gradients."""

from __future__ import annotations

import dataclasses

import paddle
import pytest

from tests.parity import cases
from tests.parity.compare import Tensors, build, draw_mask, initial_weights, named, predicted, qkv_biases, to_official
from tests.parity.compare import without_keys as without_keys_of
from tests.support.bfloat16 import errors, in_bfloat16, needs_avx512

pytestmark = [pytest.mark.parity, needs_avx512, pytest.mark.usefixtures("bfloat16_allowed")]
CHANCE = 1.15  # how far a single tensor's error may be above PyTorch's by chance; the mean of all may not
# wide enough for errors to be means over many numbers, which those of the smaller cases are not
MIDDLE = dataclasses.replace(
    cases.CASES["oblong-weights-normalised"],
    image_size=(64, 64),
    patch_size=8,
    embed_dim=192,
    depth=4,
    num_heads=6,
    mlp_ratio=4,
    decoder_embed_dim=96,
    decoder_depth=2,
    decoder_num_heads=4,
)


def of_pytorch(case: cases.Case, attention: str, *, exact: bool) -> Tensors:
    """Prediction, loss and gradients of transformers' model, in float64 or under autocast."""
    import torch

    from tests.parity import make_goldens

    model = make_goldens.build(case)
    model.set_attn_implementation(attention)
    pixels = torch.from_numpy(cases.images_BCHW(case))
    noise = torch.from_numpy(cases.noise_SBL(case)[0])
    if exact:
        model, pixels = model.double(), pixels.double()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not exact):
        output = model(pixel_values=pixels, noise=noise)
    output.loss.backward()
    found = {f"gradient:{name}": value.grad for name, value in make_goldens.trained(model).items()}
    found |= {"prediction": output.logits, "loss": output.loss}
    return {name: value.detach().double().numpy() for name, value in found.items()}


def ours(case: cases.Case) -> Tensors:
    """Prediction, loss and gradients of our model, in bfloat16."""
    from paddlemae.weights.transfer import official_parameters
    from tests.parity import make_goldens

    shapes = {name: tuple(value.shape) for name, value in make_goldens.trained(make_goldens.build(case)).items()}
    model = build(case, initial_weights(shapes.items()))
    images, mask = paddle.to_tensor(cases.images_BCHW(case)), draw_mask(case, step=0)
    with in_bfloat16():
        prediction, loss = predicted(model, images, mask), model(images, mask)
        loss.backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in official_parameters(model)}
    return {"prediction": prediction, "loss": loss.numpy(), **gradients}


def comparable(numbers: Tensors) -> Tensors:
    """PyTorch's numbers under our names."""
    gradients = to_official(named(numbers, "gradient:"))
    return {"prediction": numbers["prediction"], "loss": numbers["loss"], **gradients}


def without_keys(numbers: Tensors) -> Tensors:
    """Leave out the gradients of keys' biases, which are 0."""
    return numbers | {name: without_keys_of(numbers[name]) for name in qkv_biases(numbers)}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", [MIDDLE, cases.CASES["vit-base-raw"]], ids=["middle", "vit-base"])
def test_our_error_is_no_larger_than_autocasts(case: cases.Case, attention: str) -> None:
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'paddlemae[parity]'")
    pytest.importorskip("transformers", reason="needs transformers: pip install 'paddlemae[parity]'")
    exact = without_keys(comparable(of_pytorch(case, attention, exact=True)))
    theirs = without_keys(comparable(of_pytorch(case, attention, exact=False)))
    mine = without_keys(ours(case))
    names = [name for name in exact if name != "loss"]  # of one number an error is chance
    of_mine, of_theirs = (
        errors([side[name] for name in names], [exact[name] for name in names]) for side in (mine, theirs)
    )
    ratios = of_mine / of_theirs
    assert ratios.mean() <= 1 and ratios.max() <= CHANCE, (ratios.mean(), ratios.max(), names[ratios.argmax()])
    assert abs(mine["loss"] - exact["loss"]) < 2e-3 * exact["loss"]
