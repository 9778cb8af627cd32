"""Reconstruction: what is drawn, and what the caption admits."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.recipe import load_recipe
from paddlemae.tasks.models import reconstruction
from paddlemae.tasks.models.build import load_autoencoder
from paddlemae.tasks.models.mask_choice import MaskChoice, parse_mask
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.models.read_views import read_views
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.reconstruct import reconstruct_images
from paddlemae.tasks.training.run_start import Start


@pytest.fixture(scope="module")
def raw(tmp_path_factory, photos, tiny) -> Path:
    """A pretraining run whose target is raw pixels."""
    out = tmp_path_factory.mktemp("runs") / "raw"
    return pretrain(
        load_recipe("pretrain", None, [*tiny, f"data={photos}", "norm_pix_loss=false"]), Start(out, quiet=True)
    )


@pytest.fixture
def drawn(monkeypatch):
    """What was handed over to be drawn, by the name of its parameter."""
    seen: dict = {}

    def note(path, columns, pictures, caption, names=()):
        seen.update(columns=columns, pictures=dict(zip(columns, pictures)), caption=caption, names=names)

    monkeypatch.setattr(reconstruction, "draw_reconstructions", note)
    return seen


def test_visible_patches_are_put_back_and_removed_ones_are_gray(tmp_path, raw, photos, drawn) -> None:
    np.savetxt(tmp_path / "mask.txt", np.array([[0, 1], [0, 1]]), fmt="%d")
    choice = MaskChoice("given", file=tmp_path / "mask.txt")
    reconstruct_images(raw, [str(photos)], tmp_path / "a.png", choice=choice, limit=4)
    stages = drawn["pictures"]
    assert list(stages) == ["original", "masked", "prediction", "prediction + visible"]
    original, masked, prediction, completed = stages.values()
    assert original.shape == (4, 8, 8, 3) and original.dtype == np.uint8
    for stage in (masked, completed):
        assert np.abs(stage[:, :, :4].astype(int) - original[:, :, :4]).max() <= 1
    assert np.abs(masked[:, :, 4:].astype(int) - 128).max() <= 1
    np.testing.assert_array_equal(completed[:, :, 4:], prediction[:, :, 4:])
    assert (prediction != original).any()


def test_the_original_is_the_image(tmp_path, raw, photos, drawn) -> None:
    path = sorted(photos.rglob("*.png"))[0]
    reconstruct_images(raw, [str(path)], tmp_path / "a.png", choice=MaskChoice())
    with Image.open(path) as image:
        mean = np.asarray(image).mean(axis=(0, 1))
    assert drawn["names"] == [path.name]
    np.testing.assert_allclose(drawn["pictures"]["original"].mean(axis=(0, 1, 2)), mean, atol=10)


def test_without_a_mask_every_patch_is_seen(tmp_path, raw, photos, drawn) -> None:
    reconstruct_images(raw, [str(photos)], tmp_path / "a.png", choice=MaskChoice("none"), limit=2)
    original, masked, prediction, completed = drawn["pictures"].values()
    assert np.abs(masked.astype(int) - original).max() <= 1 and np.abs(completed.astype(int) - original).max() <= 1
    assert (prediction != original).any() and "0 of 4 patches removed" in drawn["caption"]


def test_boxes_are_in_pixels_of_the_view(tmp_path, raw, photos, drawn) -> None:
    choice = parse_mask("boxes:4,0,8,5")  # touches the lower right patch, of 4 pixels
    reconstruct_images(raw, [str(photos)], tmp_path / "a.png", choice=choice, limit=2)
    original, masked, _, _ = drawn["pictures"].values()
    assert np.abs(masked[:, :, 4:].astype(int) - 128).max() <= 1
    assert np.abs(masked[:, :, :4].astype(int) - original[:, :, :4]).max() <= 1


def test_captions_tell_raw_from_normalised_and_both_from_plain(tmp_path, raw, pretrained, photos, drawn) -> None:
    captions = {}
    for name, run, plain in (("raw", raw, False), ("normalised", pretrained, False), ("plain", pretrained, True)):
        reconstruct_images(run, [str(photos)], tmp_path / "a.png", choice=MaskChoice(), limit=2, plain=plain)
        captions[name] = drawn["caption"]
        assert "3 of 4 patches removed" in drawn["caption"]
    assert "raw pixels" in captions["raw"] and "normalised" not in captions["raw"]
    assert "mean and deviation of the original patch" in captions["normalised"]
    assert "plain" in captions["plain"] and "without the original" in captions["plain"]


def test_plain_shows_what_the_decoder_gave(tmp_path, pretrained, photos, drawn) -> None:
    pictures = {}
    for plain in (False, True):
        reconstruct_images(pretrained, [str(photos)], tmp_path / "a.png", choice=MaskChoice(), limit=2, plain=plain)
        pictures[plain] = list(drawn["pictures"].items())
    name, shown = pictures[True][2]
    assert "plain" in name and len(pictures[True]) == 3
    assert (shown != pictures[False][2][1]).any()


def test_the_figure_is_written(tmp_path, pretrained, photos) -> None:
    out = tmp_path / "new" / "a.png"
    assert reconstruct_images(pretrained, [str(photos)], out, choice=MaskChoice("block", 0.5), limit=3) == out
    with Image.open(out) as figure:
        assert figure.format == "PNG" and 300 < figure.size[0] < 3000 and 300 < figure.size[1] < 3000


def test_the_same_command_draws_the_same_pictures(tmp_path, pretrained, photos, drawn) -> None:
    stages = []
    for _ in range(2):
        reconstruct_images(pretrained, [str(photos)], tmp_path / "a.png", choice=MaskChoice(seed=3), limit=2)
        stages.append(drawn["pictures"])
    for name, pictures in stages[0].items():
        np.testing.assert_array_equal(pictures, stages[1][name])


def test_images_are_files_folders_and_the_digits(pretrained, photos) -> None:
    description = read_checkpoint(pretrained).description
    files = sorted(str(path) for path in photos.rglob("*.png"))
    names, views = read_views([files[0], files[5]], description, limit=8)
    assert names == [Path(files[0]).name, Path(files[5]).name] and views.shape == (2, 3, 8, 8)
    names, views = read_views([str(photos), "digits"], description, limit=20)
    assert len(names) == len(views) == 20 and names[:12] == [Path(file).name for file in files]
    names, views = read_views([str(photos)], description, limit=5)
    assert len(names) == len(views) == 5 and names[0] == Path(files[0]).name and names[-1] == Path(files[-1]).name


def test_only_unreadable_files_are_an_error(tmp_path, pretrained) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    description = read_checkpoint(pretrained).description
    for asked in ([str(bad)], [str(tmp_path)]):
        with pytest.raises(ValueError, match="cannot read image .*bad.png"):
            read_views(asked, description, 8)
    with pytest.raises(ValueError, match="bad.png.*and 1 more can't be read either"):
        read_views([str(bad), str(bad)], description, 8)


def test_one_unreadable_file_of_several_is_named_and_left_out(tmp_path, pretrained, photos, capsys) -> None:
    bad, good = tmp_path / "bad.png", next(photos.rglob("*.png"))
    bad.write_bytes(b"no image")
    names, views = read_views([str(bad), str(good)], read_checkpoint(pretrained).description, 8)
    assert names == [good.name] and len(views) == 1
    assert "skipped: cannot read image" in capsys.readouterr().err


def test_an_unreadable_file_of_a_folder_is_left_out(tmp_path, pretrained, photos) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "b.png").write_bytes((next(photos.rglob("*.png"))).read_bytes())
    names, views = read_views([str(tmp_path)], read_checkpoint(pretrained).description, 8)
    assert names == ["b.png"] and len(views) == 1


def test_a_classifier_has_nothing_to_draw_with(tmp_path, pretrained, encoder, colours) -> None:
    from paddlemae.tasks.finetune import finetune

    chosen = [*encoder, f"data={colours}", f"init={pretrained}", "steps=1", "threads=1", "batch_size=4"]
    finetune(load_recipe("finetune", None, chosen), Start(tmp_path / "tuned", quiet=True))
    with pytest.raises(ValueError, match="holds a classifier, which has no decoder"):
        load_autoencoder(read_checkpoint(tmp_path / "tuned"))
