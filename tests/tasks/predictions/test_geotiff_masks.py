"""GeoTIFFs: read in rows, and masks in the same place; large pictures that are no GeoTIFFs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paddlemae.data.decode import row_image
from paddlemae.data.decode.images import UnreadableImage, read_image
from paddlemae.data.decode.row_image import is_georeferenced, open_in_rows
from paddlemae.tasks.predict_masks import predict_masks
from paddlemae.tasks.predictions import write_masks
from paddlemae.tasks.predictions.mask_outputs import MaskOutputs
from tests.support.segmenters import CLASSES, PALETTE, write_segmenter

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import from_origin  # noqa: E402

CRS = "EPSG:32633"
TRANSFORM = from_origin(400_000, 5_000_000, 10, 10)
NODATA = -9999


def write_geotiff(path: Path, values: np.ndarray, **profile: Any) -> Path:
    known = {"crs": CRS, "transform": TRANSFORM, "driver": "GTiff", "dtype": values.dtype}
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of images without a place
        with rasterio.open(path, "w", **{**known, **shape, **profile}) as dataset:
            dataset.write(values)
    return path


def bands(count: int, height: int, width: int, largest: int = 10_000) -> np.ndarray:
    return np.random.default_rng(0).integers(0, largest, (count, height, width))


def rows_of(path: Path, channels: int, bits: int, step: int = 7) -> tuple[np.ndarray, np.ndarray]:
    with open_in_rows(str(path), channels, bits) as image:
        assert image is not None
        height, width = image.size
        parts = [image.read(top, min(top + step, height)) for top in range(0, height, step)]
    valid = [np.ones((pixels.shape[1], width), bool) if part is None else part for pixels, part in parts]
    return np.concatenate([pixels for pixels, _ in parts], axis=1), np.concatenate(valid)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> Path:
    return write_segmenter(tmp_path_factory.mktemp("models") / "segmenter", channels=13, bits=16)


def test_rows_are_the_pixels_that_decoding_the_whole_gives(tmp_path) -> None:
    for dtype, channels in (("uint8", 3), ("uint16", 13), ("uint8", 1), ("uint16", 4)):
        values = bands(channels, 30, 20, 200).astype(dtype)
        path = write_geotiff(tmp_path / f"{dtype}-{channels}.tif", values)
        pixels, valid = rows_of(path, channels, 8 if dtype == "uint8" else 16)
        assert valid.all()
        if channels != 4:  # with a fourth band Pillow's rules see transparency
            np.testing.assert_array_equal(pixels, read_image(path, channels).transpose(2, 0, 1))
    gray, _ = rows_of(tmp_path / "uint8-1.tif", 3, 8)
    np.testing.assert_array_equal(gray, read_image(tmp_path / "uint8-1.tif", 3).transpose(2, 0, 1))


def test_pixels_are_without_data_only_where_no_band_has_any(tmp_path) -> None:
    values = bands(13, 20, 20).astype(np.int16)
    values[:, :5] = NODATA
    values[3, 10:12] = NODATA
    pixels, valid = rows_of(write_geotiff(tmp_path / "a.tif", values, nodata=NODATA), 13, 16)
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, np.where(values == NODATA, 0, values))
    expected = np.ones((20, 20), bool)
    expected[:5] = False
    np.testing.assert_array_equal(valid, expected)


def test_transparent_pixels_are_without_data(tmp_path) -> None:
    values = bands(4, 10, 10, 200).astype(np.uint8)
    values[3] = 255
    values[3, :, :4] = 0
    path = write_geotiff(tmp_path / "a.tif", values, photometric="RGB", alpha="yes")
    pixels, valid = rows_of(path, 3, 8)
    assert not valid[:, :4].any() and valid[:, 4:].all()
    np.testing.assert_array_equal(pixels[:, :, 4:], values[:3, :, 4:])


def test_a_fourth_band_that_is_not_explained_is_left_out_of_colours(tmp_path) -> None:
    values = bands(4, 10, 10, 200).astype(np.uint8)
    path = write_geotiff(tmp_path / "a.tif", values, photometric="RGB", alpha="unspecified")
    pixels, valid = rows_of(path, 3, 8)
    np.testing.assert_array_equal(pixels, values[:3])
    np.testing.assert_array_equal(pixels, read_image(path, 3).transpose(2, 0, 1))
    assert valid.all() and rows_of(path, 4, 8)[0].shape == (4, 10, 10)


@pytest.mark.parametrize(
    ("values", "reason"),
    [(bands(5, 8, 8).astype(np.uint16), "5 channels"), (bands(13, 8, 8).astype(np.float32), "floating-point")],
    ids=["bands", "floats"],
)
def test_what_the_model_can_not_see_is_unreadable(tmp_path, values, reason) -> None:
    with pytest.raises(UnreadableImage, match=reason):
        rows_of(write_geotiff(tmp_path / "a.tif", values), 13, 16)


def test_ordinary_images_are_decoded_whole_unless_they_are_large(tmp_path, monkeypatch) -> None:
    down, across = np.indices((40, 30), dtype=np.uint8)
    pixels = np.stack([6 * down, 8 * across, 3 * down + 4 * across], axis=2)
    for ending in ("png", "jpg", "tif"):
        path = tmp_path / f"a.{ending}"
        Image.fromarray(pixels).save(path)
        with open_in_rows(str(path), 3, 8) as image:
            assert image is None
    (tmp_path / "text.png").write_text("no image")
    with open_in_rows(str(tmp_path / "text.png"), 3, 8) as image:
        assert image is None
    monkeypatch.setattr(row_image, "LARGE_BYTES", 1000)
    for ending in ("png", "jpg", "tif"):
        rows, valid = rows_of(tmp_path / f"a.{ending}", 3, 8)
        difference = np.abs(rows.astype(int) - read_image(tmp_path / f"a.{ending}", 3).transpose(2, 0, 1))
        assert valid.all() and difference.max() <= (
            8 if ending == "jpg" else 0
        )  # two programs enlarge a JPEG's colours
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=exif)
    with open_in_rows(str(tmp_path / "turned.jpg"), 3, 8) as image:
        assert image is None


def test_a_mask_is_a_geotiff_in_the_place_of_its_image(tmp_path, segmenter) -> None:
    values = bands(13, 700, 40, 65536).astype(np.uint16)
    values[:, 100:140, :7] = 0
    (tmp_path / "scenes").mkdir()
    write_geotiff(tmp_path / "scenes" / "a.tif", values, nodata=0, tiled=True, blockxsize=32, blockysize=32)
    write_geotiff(tmp_path / "scenes" / "plain.tif", values[:, :50], crs=None, transform=None)
    outputs = MaskOutputs(tmp_path / "out", polygons="geojson", probabilities=True, overlays=True)
    predict_masks(str(segmenter), [str(tmp_path / "scenes")], outputs, threads=1, quiet=True)
    assert (tmp_path / "out" / "masks" / "plain.png").exists()
    with rasterio.open(tmp_path / "out" / "masks" / "a.tif") as dataset:
        assert dataset.crs == rasterio.CRS.from_string(CRS) and dataset.transform == TRANSFORM
        assert dataset.nodata == 255 and dataset.count == 1
        mask = dataset.read(1)
        assert [list(dataset.colormap(1)[number][:3]) for number in range(3)] == PALETTE
    empty = (values == 0).all(axis=0)
    np.testing.assert_array_equal(mask == 255, empty)
    assert len(np.unique(mask)) >= 3
    probabilities = np.load(tmp_path / "out" / "probabilities" / "a.npy")
    np.testing.assert_array_equal(np.isnan(probabilities[0]), empty)
    np.testing.assert_array_equal(probabilities.argmax(axis=0)[~empty][:100], mask[~empty][:100])
    check_geojson(tmp_path / "out" / "polygons" / "a.geojson", mask)


def check_geojson(path: Path, mask: np.ndarray) -> None:
    """Draw the polygons back into the image's grid, from longitude and latitude."""
    from rasterio.features import rasterize
    from rasterio.warp import transform_geom

    content = json.loads(path.read_text())
    shapes = [
        (transform_geom("EPSG:4326", CRS, one["geometry"]), one["properties"]["class_id"])
        for one in content["features"]
    ]
    drawn = rasterize(shapes, out_shape=mask.shape, transform=TRANSFORM, fill=255, dtype="uint8")
    assert (drawn == mask).mean() > 0.999
    assert {one["properties"]["class"] for one in content["features"]} <= set(CLASSES)
    for one in content["features"]:
        x, y = np.array(one["geometry"]["coordinates"][0]).T
        assert ((x - x[0])[:-1] * (y - y[0])[1:] - (x - x[0])[1:] * (y - y[0])[:-1]).sum() > 0  # counter-clockwise


def test_ground_control_points_are_kept(tmp_path, segmenter) -> None:
    from rasterio.control import GroundControlPoint

    points = [GroundControlPoint(row, column, 10 + column, 50 - row) for row, column in ((0, 0), (0, 20), (20, 0))]
    values = bands(13, 20, 20).astype(np.uint16)
    (tmp_path / "scenes").mkdir()
    write_geotiff(tmp_path / "scenes" / "a.tif", values, crs="EPSG:4326", transform=None, gcps=points)
    outputs = MaskOutputs(tmp_path / "out")
    predict_masks(str(segmenter), [str(tmp_path / "scenes")], outputs, threads=1, quiet=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no transform
        with rasterio.open(tmp_path / "out" / "masks" / "a.tif") as dataset:
            found, crs = dataset.gcps
    assert [(one.row, one.col, one.x, one.y) for one in found] == [
        (one.row, one.col, one.x, one.y) for one in points
    ] and crs == rasterio.CRS.from_epsg(4326)


def test_without_rasterio_it_is_said_what_is_lost(tmp_path, segmenter, monkeypatch, capsys) -> None:
    for module in (row_image, write_masks):
        monkeypatch.setattr(module, "HAS_RASTERIO", False)
    (tmp_path / "scenes").mkdir()
    for name in ("a.tif", "b.tif"):
        write_geotiff(tmp_path / "scenes" / name, bands(13, 20, 20).astype(np.uint16))
    assert is_georeferenced(str(tmp_path / "scenes" / "a.tif"))
    outputs = MaskOutputs(tmp_path / "out")
    predict_masks(str(segmenter), [str(tmp_path / "scenes")], outputs, threads=1, quiet=True)
    assert capsys.readouterr().err.count("paddlemae[geo]") == 1
    assert (tmp_path / "out" / "masks" / "b.png").exists()
