"""Binary messages between the page and the server: read a request, write an answer.

A message is the length of a JSON text (4 bytes, little-endian), the text, and then arrays without padding. Nothing of a
request is trusted: its length, its JSON and each number are checked.

Shapes: H x W pixels, C channels, L patches.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

MOST_JSON_BYTES = 1024
MOST_PAGE_LETTERS = 64
LENGTH_BYTES = 4
TYPES = {"float32": np.dtype("<f4"), "int32": np.dtype("<i4")}
TOLERANCE = 1e-6  # of pixels beyond 0 and 1, which rounding may cause


class BadRequest(ValueError):
    """A request that is not as expected; the text is for whoever sent it."""


class Block(NamedTuple):
    """The block whose attention is asked for: a part of the model, and a number from 0."""

    part: Literal["encoder", "decoder"]
    number: int


@dataclass(frozen=True, eq=False)
class Request:
    """Hold a question of the page.

    Attributes:
        pixels: float32 [H, W, C], shares of white from 0 to 1.
        removed: bool [L], True where a patch is removed; at least one is kept.
        attention: the block whose attention is returned; None for none.
        features: whether to return the feature of the whole image.
        page: a text that a page draws when it is opened: its newest request replaces those before; "" replaces none.
    """

    pixels: np.ndarray
    removed: np.ndarray
    attention: Block | None = None
    features: bool = False
    page: str = ""


@dataclass(frozen=True, eq=False)
class Answer:
    """Hold a model's answer to a request: arrays (float32 or int32) by name, and single values."""

    arrays: Mapping[str, np.ndarray]
    scalars: Mapping[str, int | float]


@dataclass(frozen=True)
class RequestShape:
    """Describe the sizes of requests for one model.

    Attributes:
        image: (H, W, C).
        patches: L.
        blocks: part of the model -> the number of heads of each of its blocks.
    """

    image: tuple[int, int, int]
    patches: int
    blocks: Mapping[str, Sequence[int]]

    @property
    def array_bytes(self) -> int:
        """The bytes of a request behind its JSON."""
        height, width, channels = self.image
        return self.patches + 4 * height * width * channels

    @property
    def most_bytes(self) -> int:
        """The bytes of the longest request."""
        return LENGTH_BYTES + MOST_JSON_BYTES + self.array_bytes


def read_request(body: bytes, shape: RequestShape) -> Request:
    """Return the request that a body holds.

    Raises:
        BadRequest: a body of another length or content.
    """
    if len(body) < LENGTH_BYTES:
        raise BadRequest("the body is too short for a request")
    (size,) = struct.unpack_from("<I", body)
    if size > MOST_JSON_BYTES:
        raise BadRequest(f"the JSON of a request has at most {MOST_JSON_BYTES} bytes, and says {size}")
    expected = LENGTH_BYTES + size + shape.array_bytes
    if len(body) != expected:
        raise BadRequest(f"the body must have {expected} bytes for this model, and has {len(body)}")
    options = _read_options(body[LENGTH_BYTES : LENGTH_BYTES + size])
    removed = np.frombuffer(body, np.uint8, shape.patches, LENGTH_BYTES + size)
    if removed.max() > 1 or removed.all():
        raise BadRequest("removed patches are 1, others 0, and at least one must be 0")
    pixels = np.frombuffer(body, TYPES["float32"], offset=LENGTH_BYTES + size + shape.patches)
    if not (pixels.min() >= -TOLERANCE and pixels.max() <= 1 + TOLERANCE):  # false for nan
        raise BadRequest("pixels must be numbers from 0 to 1")
    return Request(
        pixels=pixels.reshape(shape.image),
        removed=removed.astype(bool),
        attention=_read_block(options.get("attention"), shape.blocks),
        features=options.get("features", False) is True,
        page=_read_page(options.get("page", "")),
    )


def write_answer(answer: Answer) -> bytes:
    """Return the message of an answer: scalars, and the name, type and shape of each array, then the arrays."""
    listed, parts = [], []
    for name, array in answer.arrays.items():
        (kind,) = [kind for kind, dtype in TYPES.items() if dtype == array.dtype]
        listed.append({"name": name, "type": kind, "shape": list(array.shape)})
        parts.append(np.ascontiguousarray(array).tobytes())
    text = json.dumps({**answer.scalars, "arrays": listed}).encode()
    return b"".join([struct.pack("<I", len(text)), text, *parts])


def _read_options(text: bytes) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise BadRequest('the JSON of a request must be an object, such as {"attention": null, "features": false}')
    return options


def _read_block(value: Any, blocks: Mapping[str, Sequence[int]]) -> Block | None:
    if value is None:
        return None
    part, number = (value.get("part"), value.get("block")) if isinstance(value, dict) else (None, None)
    if not isinstance(part, str) or type(number) is not int or not 0 <= number < len(blocks.get(part, ())):
        has = ", ".join(f"{len(heads)} of the {part}" for part, heads in blocks.items() if heads) or "none"
        raise BadRequest(f"attention must name a part and one of its blocks, counted from 0; this model has {has}")
    return Block("encoder" if part == "encoder" else "decoder", number)


def _read_page(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MOST_PAGE_LETTERS:
        raise BadRequest(f"page must be a text of at most {MOST_PAGE_LETTERS} letters")
    return value
