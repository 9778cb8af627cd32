"""Images: every way that pixels are stored, and every way that a file can be bad."""

import io
import os
import pickle
import struct
import warnings
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from paddlemae.data.decode.images import Need, Picture, UnreadableImage, read_image, read_picture
from paddlemae.data.decode.pixel_format import convert_depth

RAMP_HW = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) * 5
PHOTO_HW3 = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_gray_and_rgb_are_read_exactly(tmp_path: Path) -> None:
    gray = saved(tmp_path / "gray.png", Image.fromarray(RAMP_HW))
    rgb = saved(tmp_path / "rgb.png", Image.fromarray(PHOTO_HW3))
    assert read_image(gray, 1).dtype == np.uint8
    assert (read_image(gray, 1) == RAMP_HW[..., None]).all()
    assert (read_image(gray, 3) == RAMP_HW[..., None]).all() and read_image(gray, 3).shape == (6, 8, 3)
    assert (read_image(rgb, 3) == PHOTO_HW3).all()
    luma = PHOTO_HW3 @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_image(rgb, 1)[..., 0] - luma).max() < 0.51


@pytest.mark.parametrize("extension", ["bmp", "gif", "jpg", "pgm", "png", "tif", "webp"])
def test_every_format_is_read(tmp_path: Path, extension: str) -> None:
    path = saved(tmp_path / f"a.{extension}", Image.fromarray(RAMP_HW), quality=100)
    assert np.abs(read_image(path, 1)[..., 0].astype(int) - RAMP_HW).max() <= 8


def test_no_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not 0"):
        read_image(tmp_path / "a.png", 0)


def test_channels_that_a_picture_lacks_are_not_made_up(tmp_path: Path) -> None:
    for channels, extension in product([2, 5, 13], ["jpg", "png", "tif"]):
        path = saved(tmp_path / f"a.{extension}", Image.fromarray(PHOTO_HW3))
        with pytest.raises(UnreadableImage, match=f"3 channels, expected {channels}"):
            read_image(path, channels)


def test_rgba_keeps_transparency_and_is_opaque_without(tmp_path: Path) -> None:
    rgba = np.random.default_rng(1).integers(0, 256, (6, 8, 4), np.uint8)
    assert (read_image(saved(tmp_path / "a.png", Image.fromarray(rgba)), 4) == rgba).all()
    opaque = read_image(saved(tmp_path / "b.png", Image.fromarray(rgba[..., :3])), 4)
    assert (opaque[..., :3] == rgba[..., :3]).all() and (opaque[..., 3] == 255).all()
    jpeg = saved(tmp_path / "c.jpg", Image.fromarray(RAMP_HW))
    assert (read_image(jpeg, 4)[..., :3] == read_image(jpeg, 3)).all() and (read_image(jpeg, 4)[..., 3] == 255).all()


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    """Stored as a camera would for each tag, the image comes out upright (EXIF 2.3, tag 274)."""
    for orientation, extension in product(range(1, 9), ["png", "tif"]):
        stored = {
            1: RAMP_HW,
            2: RAMP_HW[:, ::-1],
            3: RAMP_HW[::-1, ::-1],
            4: RAMP_HW[::-1],
            5: RAMP_HW.T,
            6: np.rot90(RAMP_HW),
            7: RAMP_HW[::-1, ::-1].T,
            8: np.rot90(RAMP_HW, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(tmp_path / f"a.{extension}", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
        assert (read_image(path, 1)[..., 0] == RAMP_HW).all()


def test_damaged_exif_does_not_lose_the_pixels(tmp_path: Path) -> None:
    for extension, exif in product(
        ["jpg", "png", "webp"], [b"garbage", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"]
    ):
        path = saved(tmp_path / f"a.{extension}", Image.fromarray(RAMP_HW), exif=b"Exif\0\0" + exif)
        assert read_image(path, 1).shape == (6, 8, 1)


def test_transparency_is_composited_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, :, 3] = 255
    rgba[1, 1] = (255, 0, 0, 51)
    path = saved(tmp_path / "a.png", Image.fromarray(rgba))
    assert read_image(path, 3).tolist() == [[[0, 0, 0], [0, 0, 0]], [[255, 255, 255], [255, 204, 204]]]
    gray_alpha = saved(tmp_path / "la.png", Image.fromarray(rgba).convert("LA"))
    assert read_image(gray_alpha, 1)[:, 0, 0].tolist() == [0, 255]


def test_palettes_are_looked_up(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert read_image(saved(tmp_path / "a.png", image), 3).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    transparent = saved(tmp_path / "b.png", image, transparency=0)
    assert read_image(transparent, 3).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_one_bit_and_cmyk_are_converted(tmp_path: Path) -> None:
    bits = saved(tmp_path / "a.png", Image.fromarray(RAMP_HW > 100))
    assert (read_image(bits, 1)[..., 0] == np.where(RAMP_HW > 100, 255, 0)).all()
    cmyk = saved(tmp_path / "b.tif", Image.new("CMYK", (2, 2), (0, 255, 255, 0)))
    assert read_image(cmyk, 3)[0, 0].tolist() == [255, 0, 0]
    assert read_image(cmyk, 1)[0, 0].tolist() == [76]


@pytest.mark.parametrize("extension", ["png", "tif", "pgm"])
def test_sixteen_bits_are_kept_and_eight_of_them_are_the_high_byte(tmp_path: Path, extension: str) -> None:
    values = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    path = saved(tmp_path / f"a.{extension}", Image.fromarray(values))
    assert (read_image(path, 1)[..., 0] == values).all()
    assert convert_depth(read_image(path, 1), 8)[..., 0].tolist() == [[0, 0, 1], [128, 254, 255]]
    assert (read_image(path, 3) == read_image(path, 1)).all() and read_image(path, 3).shape == (2, 3, 3)


def test_pixels_without_a_stated_white_are_refused(tmp_path: Path) -> None:
    floats = saved(tmp_path / "f.tif", Image.fromarray(np.ones((2, 2), np.float32)))
    with pytest.raises(UnreadableImage, match="floating-point"):
        read_image(floats, 1)
    for value in (-1, 65536):
        integers = saved(tmp_path / "i.tif", Image.fromarray(np.full((2, 2), value, np.int32)))
        with pytest.raises(UnreadableImage, match=r"outside 0\.\.65535"):
            read_image(integers, 1)


def test_animations_give_their_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (50, 150, 250)]
    for extension in ("gif", "tif"):
        path = saved(tmp_path / f"a.{extension}", frames[0], save_all=True, append_images=frames[1:])
        assert read_image(path, 1).tolist() == np.full((4, 4, 1), 50).tolist()


@pytest.mark.parametrize("extension", ["bmp", "jpg", "png", "tif", "webp", "ppm"])
def test_truncated_files_are_unreadable(tmp_path: Path, extension: str) -> None:
    path = saved(tmp_path / f"a.{extension}", Image.fromarray(PHOTO_HW3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UnreadableImage) as caught:
        read_image(path, 3)
    assert caught.value.path == str(path) and caught.value.reason
    assert repr(str(path)) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("extension", ["bmp", "gif", "jpg", "png", "tif", "webp", "ppm"])
def test_damaged_bytes_are_read_or_reported_but_nothing_else(tmp_path: Path, extension: str) -> None:
    good = saved(tmp_path / f"good.{extension}", Image.fromarray(PHOTO_HW3)).read_bytes()
    path = tmp_path / f"bad.{extension}"
    rng = np.random.default_rng(0)
    unreadable = 0
    for _ in range(60):
        damaged = bytearray(good)
        for place in rng.integers(0, min(len(good), 200), 8):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_image(path, 3)
        except UnreadableImage as error:
            unreadable += 1
            assert "\n" not in str(error)
    assert unreadable > 0


def test_files_that_are_no_images_are_unreadable(tmp_path: Path) -> None:
    for content, reason in [
        (b"", "the file is empty"),
        (b"hello", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
    ]:
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(UnreadableImage, match=f"a.jpg': {reason}"):
            read_image(tmp_path / "a.jpg", 3)


def test_missing_forbidden_and_folder_are_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableImage, match="No such file or directory"):
        read_image(tmp_path / "gone.png", 3)
    with pytest.raises(UnreadableImage, match="Is a directory"):
        read_image(tmp_path, 3)

    def forbidden(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "a.png").touch()
    monkeypatch.setattr("builtins.open", forbidden)  # root, who runs tests in containers, may read anything
    with pytest.raises(UnreadableImage, match=r"a\.png': Permission denied$"):
        read_image(tmp_path / "a.png", 3)


@pytest.mark.parametrize("side", [10_000, 40_000])
def test_decompression_bombs_are_unreadable(tmp_path: Path, side: int) -> None:
    """10,000 squared is Pillow's warning, 40,000 squared its error; neither decodes a pixel here."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    with pytest.raises(UnreadableImage, match="more than 89478485 pixels"):
        read_image(tmp_path / "bomb.png", 1)


def test_pillow_s_warnings_do_not_leak(tmp_path: Path) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0"  # announces five entries and ends
    path = saved(tmp_path / "a.jpg", Image.fromarray(RAMP_HW), exif=exif)
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(path) as image:
        image.getexif()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(path, 3)
    assert caught == []


def test_unprintable_names_stay_on_one_line(tmp_path: Path) -> None:
    for name in (b"two\nlines.png", b"caf\xe9.png"):
        path = os.path.join(tmp_path, os.fsdecode(name))
        with pytest.raises(UnreadableImage) as caught:
            read_image(path, 3)
        assert caught.value.path == path
        assert "\n" not in str(caught.value) and str(caught.value).encode()


@pytest.mark.parametrize(("said", "reason"), [("two\n lines", "two lines"), ("", "SyntaxError")])
def test_whatever_pillow_says_becomes_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, reason: str
) -> None:
    def fail(image: Image.Image) -> None:
        raise SyntaxError(said)

    path = saved(tmp_path / "a.bmp", Image.fromarray(RAMP_HW))
    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", fail)
    with pytest.raises(UnreadableImage, match=f": {reason}$"):
        read_image(path, 1)


def test_unreadable_image_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(UnreadableImage("a.jpg", "truncated", 5)))
    assert (copy.path, copy.reason, copy.errno) == ("a.jpg", "truncated", 5)
    assert str(copy) == "cannot read image 'a.jpg': truncated"


def read_at(path: Path, need: Need) -> tuple[Picture, list[tuple[int, int]]]:
    """Three channels of the image as it is needed, and the whole sizes that `read_picture` reported."""
    sizes: list[tuple[int, int]] = []
    return read_picture(path, 3, lambda *size: sizes.append(size) or need), sizes


def photo(height: int, width: int) -> Image.Image:
    """Smooth colours, as a photo's, that tell every corner from the others."""
    y, x = np.mgrid[:height, :width]
    planes = [255 * x / width, 255 * y / height, 127 + 127 * np.sin(x / 9) * np.cos(y / 7)]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


def test_a_whole_jpeg_has_the_very_bits_that_pillow_gives(tmp_path: Path) -> None:
    for mode, options in product(
        ["RGB", "L"], [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"quality": 30}]
    ):
        path = saved(tmp_path / "a.jpg", photo(37, 51).convert(mode), **options)
        for channels, own in ((3, "RGB"), (1, "L")):
            expected = np.asarray(Image.open(path).convert(own)).reshape(37, 51, channels)
            assert (read_image(path, channels) == expected).all()


@pytest.mark.parametrize("times", [1, 2, 4, 8])
def test_a_jpeg_is_decoded_as_small_as_is_allowed(tmp_path: Path, times: int) -> None:
    path = saved(tmp_path / "a.jpg", photo(131, 190), quality=95)
    picture, sizes = read_at(path, Need(times))
    assert sizes == [(131, 190)] == [picture.size]
    assert picture.pixels_hwC.shape == (-(-131 // times), -(-190 // times), 3)
    assert picture.scale == (1 / times, 1 / times)
    inner = read_image(path, 3)[: 131 // times * times, : 190 // times * times].astype(float)
    blocks = inner.reshape(131 // times, times, 190 // times, times, 3).mean(axis=(1, 3))
    decoded = picture.pixels_hwC[: blocks.shape[0], : blocks.shape[1]]
    assert np.abs(decoded - blocks).mean() < (1 if times < 8 else 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for size in ((64, 96), (67, 93)):  # whole pixels at every reduction, and not
        path = saved(tmp_path / "a.jpg", photo(*size), exif=exif, quality=95)
        upright = read_image(path, 3)
        assert (upright == np.asarray(ImageOps.exif_transpose(Image.open(path)))).all()
        for times in (1, 2, 4, 8):
            picture, sizes = read_at(path, Need(times))
            assert sizes == [upright.shape[:2]] == [picture.size]
            h, w = picture.pixels_hwC.shape[:2]
            rows = np.minimum(((np.arange(h) + 0.5) / picture.scale[0]).astype(int), upright.shape[0] - 1)
            columns = np.minimum(((np.arange(w) + 0.5) / picture.scale[1]).astype(int), upright.shape[1] - 1)
            assert np.abs(picture.pixels_hwC - upright[rows][:, columns].astype(int)).mean() < 12


def test_what_is_no_ordinary_jpeg_is_decoded_whole(tmp_path: Path) -> None:
    cmyk = saved(tmp_path / "cmyk.jpg", photo(64, 64).convert("CMYK"))
    png = saved(tmp_path / "a.png", photo(64, 64))
    small = saved(tmp_path / "small.jpg", photo(8, 64))
    for path, size in ((cmyk, (64, 64)), (png, (64, 64)), (small, (8, 64))):
        picture, sizes = read_at(path, Need(4))
        assert picture.scale == (1, 1) and picture.pixels_hwC.shape[:2] == picture.size == size and sizes == [size]
        assert (picture.pixels_hwC == read_image(path, 3)).all()


@pytest.mark.parametrize("options", [{"subsampling": n} for n in range(3)] + [{"restart_marker_rows": 1}])
def test_rows_below_those_needed_are_left_out_and_the_others_stay(tmp_path: Path, options: dict) -> None:
    for mode, times in product(("RGB", "L"), (1, 2, 4, 8)):
        path = saved(tmp_path / "a.jpg", photo(203, 155).convert(mode), quality=90, **options)
        expected, _ = read_at(path, Need(times))
        for rows in (1, 17, 64, 100, 150, 203):
            picture, _ = read_at(path, Need(times, rows))
            kept = picture.pixels_hwC
            assert picture.size == expected.size and picture.scale == expected.scale
            decoded = min(203, -(-max(16, rows + 4 * times) // 8) * 8)  # four reduced rows more, whole rows of blocks
            assert len(kept) == -(-decoded // times)
            assert (kept[: rows // times] == expected.pixels_hwC[: rows // times]).all()


@pytest.mark.parametrize("options", [{"progressive": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}])
def test_jpegs_that_may_not_be_coded_from_the_top_are_decoded_whole(tmp_path: Path, options: dict) -> None:
    path = saved(tmp_path / "a.jpg", photo(203, 155), **options)
    assert len(read_picture(path, 3, lambda *_: Need(1, 50)).pixels_hwC) == 203


@pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
def test_a_truncated_jpeg_is_unreadable_for_any_rows(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path / "a.jpg", photo(203, 155))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UnreadableImage):
        read_picture(path, 3, lambda *_: Need(1, 20))


def test_damage_gives_pillows_pixels_or_verdict(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.jpg", photo(128, 96)).read_bytes()
    path, rng, readable = tmp_path / "bad.jpg", np.random.default_rng(1), 0
    for _ in range(200):
        damaged = bytearray(good)
        for place in rng.integers(3, len(good), 2):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            expected = np.asarray(pillow_s(damaged))
        except Exception:
            continue
        picture = read_picture(path, 3, lambda *_: Need(1, 64))
        readable += 1
        assert (picture.pixels_hwC[:64] == expected[:64]).all()
    assert 50 < readable < 200


def test_a_jpeg_may_have_any_name_and_a_name_any_content(tmp_path: Path) -> None:
    jpeg = saved(tmp_path / "a.jpg", photo(32, 48)).rename(tmp_path / "a.png")
    assert read_picture(jpeg, 3, lambda *_: Need(2)).pixels_hwC.shape == (16, 24, 3)


@pytest.mark.parametrize("times", [1, 8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_that_ends_early_is_unreadable_at_every_size(tmp_path: Path, times: int, options: dict) -> None:
    path = saved(tmp_path / "a.jpg", photo(128, 128), **options)
    content = path.read_bytes()
    for share in (0.3, 0.6, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(UnreadableImage):
            read_picture(path, 3, lambda *_: Need(times))


@pytest.mark.parametrize("times", [1, 4])
def test_the_verdict_on_a_damaged_jpeg_is_pillow_s(tmp_path: Path, times: int) -> None:
    good = saved(tmp_path / "good.jpg", photo(64, 80)).read_bytes()
    path, rng, verdicts = tmp_path / "bad.jpg", np.random.default_rng(1), []
    for _ in range(300):
        damaged = bytearray(good)
        for place in rng.integers(3, len(good), 2):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        verdicts.append((_read_by_pillow(damaged), _read_by_us(path, times)))
    assert {pillow for pillow, _ in verdicts} == {True, False}
    assert all(pillow == ours for pillow, ours in verdicts)


def _read_by_pillow(content: bytes) -> bool:
    try:
        pillow_s(content)
    except Exception:
        return False
    return True


def pillow_s(content: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(content)).convert("RGB")


def _read_by_us(path: Path, times: int) -> bool:
    try:
        read_picture(path, 3, lambda *_: Need(times))
    except UnreadableImage:
        return False
    return True


def test_reading_the_whole_is_the_default(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", photo(64, 64))
    assert (read_picture(path, 3, lambda *_: Need()).pixels_hwC == read_image(path, 3)).all()
