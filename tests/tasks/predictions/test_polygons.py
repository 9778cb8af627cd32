"""Polygons of a label map: they give the same map back, whatever its regions look like."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from paddlemae.tasks.predictions.polygons import Region, RegionTracer, run_lengths, trace_regions


def filled(regions: list[Region], height: int, width: int) -> NDArray[np.int64]:
    """Draw regions by the even-odd rule; -1 where none is. No pixel may be drawn twice."""
    drawn = np.full((height, width), -1)
    for region in regions:
        crossings = np.zeros((height, width + 1), np.int64)
        for ring in region.rings:
            for (x, y), (next_x, next_y) in zip(ring, np.roll(ring, -1, axis=0)):
                assert (x == next_x) != (y == next_y)
                crossings[min(y, next_y) : max(y, next_y), x] += x == next_x
        inside = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
        assert (drawn[inside] == -1).all()
        drawn[inside] = region.label
        assert inside.sum() == region.area
        left, top, right, bottom = region.box
        assert inside[top:bottom, left:right].sum() == region.area
    return drawn


def decoded(counts: list[int], height: int, width: int) -> NDArray[np.bool_]:
    assert 0 not in counts[1:]
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return values.reshape(width, height).T


def blobs(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), 2)
    return np.digitize(noise, np.quantile(noise, [0.3, 0.6])).astype(np.uint8)


MAPS = {
    "pixel": np.array([[1]]),
    "row": np.array([[1, 1, 0, 2, 2]]),
    "column": np.array([[1], [1], [0]]),
    "diagonal": np.array([[1, 0], [0, 1]]),
    "ring": np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]]),
    "island": np.pad(np.pad(np.array([[2]]), 1, constant_values=0), 2, constant_values=2),
    "two holes that touch": np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]]),
    "hole that touches the outside": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1]]),
    "noise": np.random.default_rng(0).integers(0, 3, (23, 31)),
    "stripes": np.indices((9, 14)).sum(axis=0) % 2,
    "blobs": blobs(60, 45, 0),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("rows", [1, 2, 7, 1000])
def test_polygons_give_the_map_back_however_many_rows_come_at_once(name, rows) -> None:
    labels = MAPS[name]
    tracer = RegionTracer(labels.shape[1])
    for top in range(0, len(labels), rows):
        tracer.add(labels[top : top + rows])
    regions = list(tracer.regions())
    np.testing.assert_array_equal(filled(regions, *labels.shape), labels)
    assert len(regions) == sum(ndimage.label(labels == label)[1] for label in np.unique(labels))
    whole = trace_regions(labels)
    assert [(one.label, one.area, [ring.tolist() for ring in one.rings]) for one in regions] == [
        (one.label, one.area, [ring.tolist() for ring in one.rings]) for one in whole
    ]


@pytest.mark.parametrize("name", MAPS)
def test_run_lengths_give_each_region_back(name) -> None:
    labels = MAPS[name]
    together = np.zeros(labels.shape, np.int64)
    for region in trace_regions(labels):
        mask = decoded(run_lengths(region, *labels.shape), *labels.shape)
        assert mask.sum() == region.area and (labels[mask] == region.label).all()
        together += mask
    assert (together == 1).all()


def test_rings_turn_as_promised_and_holes_follow_their_region() -> None:
    (ring, hole) = trace_regions(MAPS["ring"])
    assert (ring.label, hole.label) == (0, 1)  # by label
    region = hole
    assert [len(one) for one in region.rings] == [4, 4]
    assert sorted(map(tuple, region.rings[0].tolist())) == [(0, 0), (0, 3), (3, 0), (3, 3)]
    signs = []
    for points in region.rings:
        x, y = points.T
        signs.append(int(np.sign((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())))
    assert signs == [1, -1]


def test_background_and_small_regions_are_left_out() -> None:
    labels = np.array([[0, 0, 0, 0], [0, 5, 5, 0], [0, 0, 0, 5]])
    assert [(region.label, region.area) for region in trace_regions(labels, background=0)] == [(5, 2), (5, 1)]
    assert [region.area for region in trace_regions(labels, background=0, min_area=2)] == [2]
    assert trace_regions(np.zeros((3, 3), int), background=0) == []


def test_what_is_kept_does_not_grow_with_the_pixels() -> None:
    tracer = RegionTracer(1000)
    for _ in range(50):
        tracer.add(np.ones((100, 1000), np.uint8))
    (region,) = tracer.regions()
    assert region.area == 5_000_000 and region.box == (0, 0, 1000, 5000) and len(region.rings[0]) == 4
    assert sum(part.shape[1] for part in tracer.edges) == 2 * (1000 + 5000)
