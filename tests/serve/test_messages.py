"""Binary messages of the server: requests are checked, answers are read back."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from paddlemae.serve.messages import (
    MOST_JSON_BYTES,
    Answer,
    BadRequest,
    Block,
    RequestShape,
    read_request,
    write_answer,
)
from tests.support.served import read_answer, request_body

SHAPE = RequestShape(image=(4, 6, 3), patches=6, blocks={"encoder": [2, 2], "decoder": [4]})
PIXELS = np.linspace(0, 1, 72, dtype=np.float32).reshape(4, 6, 3)
REMOVED = np.array([0, 1, 1, 0, 1, 0], np.uint8)


def body(options: object = None, removed: np.ndarray = REMOVED, pixels: np.ndarray = PIXELS) -> bytes:
    return request_body(pixels, removed, {} if options is None else options)


def test_a_request_is_read_as_it_was_written() -> None:
    request = read_request(body({"attention": {"part": "decoder", "block": 0}, "features": True, "page": "a"}), SHAPE)
    np.testing.assert_array_equal(request.pixels, PIXELS)
    np.testing.assert_array_equal(request.removed, REMOVED.astype(bool))
    assert request.attention == Block("decoder", 0) and request.features and request.page == "a"


def test_attention_and_features_are_asked_for_by_name_only() -> None:
    for options in ({}, {"attention": None, "features": False}, {"features": 1}):
        request = read_request(body(options), SHAPE)
        assert request.attention is None and not request.features


def test_the_longest_request_has_the_most_bytes() -> None:
    text = json.dumps({"x": "y" * (MOST_JSON_BYTES - 9)})
    assert len(text) == MOST_JSON_BYTES
    assert len(body(json.loads(text))) == SHAPE.most_bytes
    read_request(body(json.loads(text)), SHAPE)


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\0\0",
        body()[:-1],
        body() + b"\0",
        struct.pack("<I", 2**32 - 1) + body()[4:],
        struct.pack("<I", MOST_JSON_BYTES + 1) + bytes(MOST_JSON_BYTES + 1 + SHAPE.array_bytes),
        body([]),
        body("text"),
        body(3),
        struct.pack("<I", 4) + b"{\xff\xfe}" + bytes(SHAPE.array_bytes),
        struct.pack("<I", 1000) + b"[" * 1000 + bytes(SHAPE.array_bytes),
        body(removed=np.ones(6, np.uint8)),
        body(removed=np.full(6, 2, np.uint8)),
        body(pixels=PIXELS + np.float32(0.01)),
        body(pixels=PIXELS - np.float32(0.01)),
        body(pixels=np.where(PIXELS == 0, np.float32(np.nan), PIXELS)),
        body(pixels=np.where(PIXELS == 0, np.float32(np.inf), PIXELS)),
        body({"attention": "encoder"}),
        body({"attention": {"part": "encoder"}}),
        body({"attention": {"part": "encoder", "block": 2}}),
        body({"attention": {"part": "encoder", "block": -1}}),
        body({"attention": {"part": "encoder", "block": True}}),
        body({"attention": {"part": "encoder", "block": 0.0}}),
        body({"attention": {"part": "head", "block": 0}}),
        body({"attention": {"part": ["encoder"], "block": 0}}),
        body({"attention": {"part": {}, "block": 0}}),
        body({"page": 5}),
        body({"page": "x" * 65}),
    ],
)
def test_other_bodies_are_refused_in_one_line(wrong: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        read_request(wrong, SHAPE)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


def test_an_answer_is_read_back() -> None:
    plain, patches = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([-1, 0], np.int32)
    scalars, arrays = read_answer(write_answer(Answer({"plain": plain, "patches": patches}, {"milliseconds": 3.5})))
    np.testing.assert_array_equal(arrays["plain"], plain)
    np.testing.assert_array_equal(arrays["patches"], patches)
    assert scalars["milliseconds"] == 3.5 and arrays["plain"].dtype == np.float32
