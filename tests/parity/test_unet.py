"""The U-Net of the comparison of segmenters is what it says, learns, and refuses what it can not train."""

import pytest

from tests.support.coloured_scenes import write_scenes

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

from benchmarks import unet  # noqa: E402, it needs PyTorch


def test_a_unet_has_about_a_million_weights_and_keeps_the_size() -> None:
    model = unet.UNet(3, 5)
    model.eval()
    assert 0.8e6 < sum(parameter.numel() for parameter in model.parameters()) < 1.2e6
    assert model(torch.zeros([2, 3, 24, 40])).shape == (2, 5, 24, 40)


def test_a_unet_learns(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(unet, "WIDTH", 4)
    data = str(write_scenes(tmp_path / "land", train=8, test=3))
    row = unet.run(data, labels=None, size=16, batch_size=4, seed=0, steps=40)
    worse = unet.run(data, labels="50%", size=16, batch_size=4, seed=0, steps=1)
    assert row["miou"] > worse["miou"] and row["steps"] == 40 and worse["images"] == 4
    timed = unet.run(data, labels=None, size=16, batch_size=4, seed=0, seconds=0.5, short_side=16)
    assert timed["steps"] >= 1 and timed["seconds"] < 10


@pytest.mark.parametrize("wrong", [dict(size=20, steps=1), dict(size=16), dict(size=16, steps=1, seconds=1.0)])
def test_what_can_not_be_trained_is_one_line(wrong) -> None:
    with pytest.raises(ValueError):
        unet.run("unmade", labels=None, batch_size=4, seed=0, **wrong)
