"""The shape of a model: its keys, the sizes that set them, and the tensors that follow from them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from paddlemae.model.block_tensors import TensorShapes, block_tensors, cross_tensors, mae_tensors
from paddlemae.model.heads.tensors import head_tensors

MOST = 10**12  # of anything that is counted, so that products of such numbers stay numbers
MOST_PIXELS = 2**20  # of an image's side
MOST_LAYERS = 10_000
MOST_CHANNELS = 65_536
RELATIVE_POSITIONS = "relative_position_bias_table"  # BEiT's name
SMALLEST_STD, LARGEST_STATISTIC = 1e-6, 1e6  # of pixels in [0, 1]; beyond, normalised values are no numbers

ModelClass = TypeVar("ModelClass", bound=Any)
Pixels = int | tuple[int, int]  # of both sides, or (height, width)

# Dosovitskiy et al. (ViT), table 1; Tiny and Small from DeiT, table 1; Mini is ours, for 28-32 pixel images.
SIZES: dict[str, dict[str, int]] = {
    "mini": dict(patch_size=4, embed_dim=128, depth=4, num_heads=4),
    "tiny": dict(patch_size=16, embed_dim=192, depth=12, num_heads=3),
    "small": dict(patch_size=16, embed_dim=384, depth=12, num_heads=6),
    "base": dict(patch_size=16, embed_dim=768, depth=12, num_heads=12),
    "large": dict(patch_size=16, embed_dim=1024, depth=24, num_heads=16),
    "huge": dict(patch_size=14, embed_dim=1280, depth=32, num_heads=16),
}
PUBLISHED = {keys["embed_dim"]: name for name, keys in SIZES.items() if name != "mini"}  # width -> size


def _key(default: Any, about: str, *, is_new: bool = False, **limits: float) -> Any:
    """Describe a key: its default, its meaning and the limits of its numbers as pydantic names them.

    Args:
        is_new: `model.json` may lack it, as that of older versions does; it has the default then.
    """
    return field(default=default, metadata={"about": about, "limits": limits, "is_new": is_new})


@dataclass(frozen=True)
class EncoderShape:
    """The shape of the encoder, which every model but a probe's head has.

    Raises:
        ValueError: a patch that does not divide the image.
    """

    image_size: int | tuple[int, int] = _key(224, "side in pixels, or [height, width]", ge=1, le=MOST_PIXELS)
    patch_size: int | tuple[int, int] = _key(16, "side of a patch in pixels, or [height, width]", ge=1, le=MOST_PIXELS)
    channels: int = _key(3, "channels of an image", ge=1, le=MOST_CHANNELS)
    embed_dim: int = _key(768, "width of the encoder", ge=1, le=MOST)
    depth: int = _key(12, "blocks of the encoder", ge=1, le=MOST_LAYERS)
    num_heads: int = _key(12, "attention heads of the encoder", ge=1, le=MOST)
    mlp_ratio: float = _key(4.0, "hidden width of an MLP, relative to the width of the encoder", gt=0, le=MOST)
    cls_token: bool = _key(True, "put a cls token before the patch tokens")
    positions: Literal["sincos2d", "sincos1d", "learned"] = _key(
        "sincos2d",
        "position embeddings of the encoder: `sincos2d` and `sincos1d` are fixed, `learned` are trained; those of a "
        "decoder are fixed",
    )
    drop_path: float = _key(
        0.0,
        "probability of skipping a residual branch in the last block; rises to it linearly from 0",
        is_new=True,
        ge=0,
        lt=1,
    )

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size"):
            object.__setattr__(self, name, pair(asdict(self)[name]))
        patch_grid(self.image_size, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Return (rows, columns) of patches."""
        return patch_grid(self.image_size, self.patch_size)

    @property
    def pixels(self) -> int:
        """Return the number of values in a patch."""
        return math.prod(pair(self.patch_size)) * self.channels


@dataclass(frozen=True)
class DecoderShape:
    """The shape of the decoder of a masked autoencoder.

    Raises:
        ValueError: an unknown decoder.
    """

    decoder: Literal["mae", "cross"] = _key(
        "mae",
        "`mae` (self-attention over all tokens), or `cross` (CrossMAE's cross-attention)",
        is_new=True,
    )
    decoder_embed_dim: int = _key(512, "width of the decoder", ge=1, le=MOST)
    decoder_depth: int | None = _key(
        None, "blocks of the decoder; by default 8, and 12 for `cross`", ge=1, le=MOST_LAYERS
    )
    decoder_num_heads: int = _key(16, "attention heads of the decoder", ge=1, le=MOST)
    inter_block_attention: bool = _key(
        True,
        "`cross` only: each block sees a weighted sum of the outputs of all encoder blocks instead of the last one",
        is_new=True,
    )
    norm_pix_loss: bool = _key(
        False, "predict the pixels of each patch normalised by the patch's own mean and standard deviation"
    )
    norm_pix_floor: float = _key(
        0.0,
        "`norm_pix_loss` only: its square is added to each patch's variance, so that deviations far below it, of "
        "patches that show little but noise, are not brought to 1. That of the images is about 1; 0 is the paper's",
        is_new=True,
        ge=0,
        le=1,
    )

    def __post_init__(self) -> None:
        if self.decoder not in DECODER_KINDS:
            raise ValueError(f"decoder must be one of {', '.join(DECODER_KINDS)}, got {self.decoder!r}")
        if self.decoder_depth is None:
            object.__setattr__(self, "decoder_depth", DECODER_KINDS[self.decoder].depth)

    @property
    def target(self) -> str:
        """Return the name of what is predicted, a key of `targets.TARGETS`."""
        return target_name(asdict(self))


@dataclass(frozen=True)
class HeadShape:
    """The shape of what follows the encoder in a classifier."""

    num_classes: int = _key(1000, "outputs of the head; 0 is an encoder without a head", ge=0, le=MOST)
    pool: Literal["mean", "cls", "mean+std"] = _key(
        "mean",
        "the classifier reads the `mean` of the patch tokens or `mean+std`, their mean and standard deviation, then a "
        "norm; or the `cls` token",
    )


HEADS = ("linear", "conv", "upernet")
TAPS = 4  # maps that the pyramid of UPerNet is made of


@dataclass(frozen=True)
class SegmenterShape:
    """The shape of what follows the encoder in a segmenter, and of the positions that it adds to the encoder.

    Raises:
        ValueError: an unknown head.
    """

    num_classes: int = _key(150, "classes of a pixel", ge=1, le=MOST)
    head: Literal["linear", "conv", "upernet"] = _key(
        "linear",
        "`linear` (one layer on each patch token), `conv` (convolutions, four times upsampled), or `upernet` (the "
        "paper's: a pyramid of four blocks' outputs, pooling, and an auxiliary head in training)",
    )
    head_width: int | None = _key(
        None,
        "channels of `conv` and `upernet`; null is half the encoder's width, at most 256, for `conv`, and its whole "
        "width for `upernet`",
        is_new=True,
        ge=1,
        le=MOST,
    )
    taps: Sequence[int] | None = _key(
        None,
        "`upernet` only: the four blocks whose outputs the pyramid is made of, counted from 1, the last one included; "
        "null is evenly spaced",
        is_new=True,
        min_length=TAPS,
        max_length=TAPS,
    )
    head_dropout: float = _key(
        0.1,
        "`upernet` only: share of the channels that are dropped before the last layer in training",
        is_new=True,
        ge=0,
        lt=1,
    )
    relative_positions: bool = _key(
        False, "add a bias to attention for each distance of two patches, zero at the start", is_new=True
    )

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, got {self.head!r}")

    def completed(self, depth: int, width: int) -> SegmenterShape:
        """Return the shape with the numbers that null stands for; what the head does not read is null.

        Args:
            depth, width: of the encoder.
        Raises:
            ValueError: taps that do not ascend to the last block.
        """
        taps = self.taps if self.head == "upernet" else None
        if self.head == "upernet":
            taps = taps or [-(-depth * number // TAPS) for number in range(1, TAPS + 1)]
            check_taps(taps, depth)
        return replace(self, taps=taps, head_width=self.channels(width))

    def channels(self, width: int) -> int | None:
        """Return the channels of the head, behind an encoder of a width; None of `linear`."""
        if self.head == "linear":
            return None
        return self.head_width or (max(1, min(256, width // 2)) if self.head == "conv" else width)


def check_taps(taps: Sequence[int], depth: int) -> None:
    """Raise a ValueError unless these are four blocks, counted from 1, in order, of which the last is the encoder's."""
    in_order = all(0 < one <= other for one, other in itertools.pairwise(taps))
    if len(taps) != TAPS or not in_order or taps[-1] != depth:
        raise ValueError(
            f"taps must be {TAPS} blocks in order, counted from 1, of which the last is the encoder's last, {depth}; "
            f"got {', '.join(map(str, taps))}"
        )


SHAPES: dict[str, tuple[type[Any], ...]] = {
    "mae": (EncoderShape, DecoderShape),
    "classifier": (EncoderShape, HeadShape),
    "encoder": (EncoderShape, HeadShape),
    "segmenter": (EncoderShape, SegmenterShape),
}


@dataclass(frozen=True)
class Key:
    """A key of a shape.

    Attributes:
        kind: its type.
        limits: of its numbers, as the arguments of pydantic's `Field`.
        is_new: `model.json` may lack it.
    """

    name: str
    kind: Any
    default: Any
    about: str
    limits: Mapping[str, Any]
    is_new: bool


def keys_of(*shapes: type[Any]) -> Iterator[Key]:
    """Yield the keys of shapes, in order."""
    for shape in shapes:
        hints = get_type_hints(shape)
        for key in fields(shape):
            kind = hints[key.name]
            if key.default is None:  # which stands for a number that the constructor sets
                kind = get_args(kind)[0]
            yield Key(name=key.name, kind=kind, default=key.default, **key.metadata)


def names_of(*shapes: type[Any]) -> tuple[str, ...]:
    """Return the names of the keys of shapes."""
    return tuple(key.name for key in keys_of(*shapes))


def split_keys(kind: str, keys: Mapping[str, Any]) -> list[Any]:
    """Return the shapes of a kind of model from keyword arguments.

    Args:
        kind: a key of `SHAPES`.
    Raises:
        TypeError: an unknown key.
        ValueError: see the shapes.
    """
    names = names_of(*SHAPES[kind])
    if unknown := sorted(set(keys) - set(names)):
        near = get_close_matches(unknown[0], names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise TypeError(f"unexpected keyword argument {unknown[0]!r}; {hint}The keys are {', '.join(names)}")
    return [shape(**{name: keys[name] for name in names_of(shape) if name in keys}) for shape in SHAPES[kind]]


def document_keys(model: ModelClass) -> ModelClass:
    """Put the keys of a model class into its docstring, in place of `<keys>`: meaning and default of each."""
    keys = [(key, "" if key.default is None else f" (default {key.default!r})") for key in keys_of(*SHAPES[model.kind])]
    lines = (f"{key.name}: {key.about}{default}." for key, default in keys)
    model.__doc__ = (model.__doc__ or "").replace("<keys>", "\n        ".join(lines))
    return model


def architecture_of(*shapes: Any) -> dict[str, Any]:
    """Return shapes as one dict of JSON types, as `model.json` has it; what has no effect is left out."""
    architecture = {name: value for shape in shapes for name, value in asdict(shape).items()}
    if "decoder" in architecture:  # norm_pix_loss comes first in files
        inter_block_attention = architecture.pop("inter_block_attention")
        if DECODER_KINDS[architecture["decoder"]].sees_all_maps:
            architecture["inter_block_attention"] = inter_block_attention
        if not (architecture["norm_pix_loss"] and architecture["norm_pix_floor"]):
            del architecture["norm_pix_floor"]
    if "head" in architecture:
        unread = {"linear": ("head_width", "taps", "head_dropout"), "conv": ("taps", "head_dropout"), "upernet": ()}
        for name in unread[architecture["head"]]:
            del architecture[name]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in architecture.items()}


def pair(value: Any) -> tuple[int, int]:
    """Return (height, width) from one number or from two."""
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)


def patch_grid(image_size: Any, patch_size: Any) -> tuple[int, int]:
    """Return (rows, columns) of patches.

    Raises:
        ValueError: the patch does not divide the image.
    """
    (height, width), (patch_height, patch_width) = pair(image_size), pair(patch_size)
    if min(height, width, patch_height, patch_width) < 1:
        raise ValueError(
            f"image and patch sizes must be at least 1 pixel, "
            f"got an image of {height} x {width} and patches of {patch_height} x {patch_width}"
        )
    if height % patch_height or width % patch_width:
        fit = tuple(max(1, round(side / p)) * p for side, p in zip((height, width), (patch_height, patch_width)))
        raise ValueError(
            f"image size {height} x {width} is not divisible by the patch size {patch_height} x {patch_width}; "
            f"{fit[0]} x {fit[1]} would be, or choose a patch size that divides it"
        )
    return height // patch_height, width // patch_width


def target_name(architecture: Mapping[str, Any]) -> str:
    """Return the name of what a masked autoencoder predicts: "normalised" or "raw" pixels."""
    return "normalised" if architecture.get("norm_pix_loss") else "raw"


def tensor_shapes(kind: str, architecture: Mapping[str, Any]) -> TensorShapes:
    """Return the shape of every tensor of a model under its official name, without building the model.

    Args:
        kind: a key of `SHAPES`.
        architecture: its keys; what is left out of the decoder's is the default.
    """
    width, front = architecture["embed_dim"], int(architecture["cls_token"])
    (height, wide), (patch_height, patch_width) = (pair(architecture[name]) for name in ("image_size", "patch_size"))
    tokens = (height // patch_height) * (wide // patch_width) + front
    patch = (architecture["channels"], patch_height, patch_width)
    shapes: TensorShapes = {"cls_token": (1, 1, width)} if front else {}
    shapes |= {"pos_embed": (1, tokens, width)}
    shapes |= {"patch_embed.proj.weight": (width, *patch), "patch_embed.proj.bias": (width,)}
    for number in range(architecture["depth"]):
        shapes |= block_tensors(f"blocks.{number}", width, int(width * architecture["mlp_ratio"]))
        if architecture.get("relative_positions"):
            distances = relative_distances((height // patch_height, wide // patch_width))
            shapes |= {f"blocks.{number}.attn.{RELATIVE_POSITIONS}": (distances, architecture["num_heads"])}
    pool = architecture.get("pool", "cls")
    norm = ("norm", width) if pool == "cls" else ("fc_norm", pooled_width(pool, width))
    if architecture.get("head") != "upernet":
        shapes |= {f"{norm[0]}.weight": norm[1:], f"{norm[0]}.bias": norm[1:]}
    if kind == "segmenter":
        channels = SegmenterShape(head=architecture["head"], head_width=architecture.get("head_width")).channels(width)
        return shapes | head_tensors({**architecture, "head_width": channels})
    if kind == "classifier":
        classes, inputs = architecture["num_classes"], pooled_width(pool, width)
        shapes |= {"head.weight": (classes, inputs), "head.bias": (classes,)}
    return shapes | (_decoder_shapes(architecture, tokens, math.prod(patch)) if kind == "mae" else {})


def pooled_width(pool: str, width: int) -> int:
    """Return the numbers of a feature that is pooled from tokens of a width."""
    return 2 * width if pool == "mean+std" else width


def relative_distances(grid: tuple[int, int]) -> int:
    """Return the rows of a table of relative positions: distances of two patches, then three of the cls token."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3


def _decoder_shapes(architecture: Mapping[str, Any], tokens: int, pixels: int) -> TensorShapes:
    narrow = architecture["decoder_embed_dim"]
    shapes: TensorShapes = {"mask_token": (1, 1, narrow), "decoder_pos_embed": (1, tokens, narrow)}
    shapes |= DECODER_KINDS[architecture.get("decoder", "mae")].tensors(architecture)
    shapes |= {"decoder_norm.weight": (narrow,), "decoder_norm.bias": (narrow,)}
    return shapes | {"decoder_pred.weight": (pixels, narrow), "decoder_pred.bias": (pixels,)}


def decoder_parts() -> set[str]:
    """Return the first words of the names of all tensors that a decoder may have."""
    architectures = [architecture_of(EncoderShape(), DecoderShape(decoder=name)) for name in DECODER_KINDS]  # type: ignore[arg-type]
    return {name.split(".")[0] for shape in architectures for name in _decoder_shapes(shape, 1, 1)}


@dataclass(frozen=True)
class DecoderKind:
    """What is known of a decoder before it is built; `decoders.DECODERS` has its class.

    Attributes:
        depth: its blocks unless a recipe says otherwise.
        predicts_some: it can leave out removed patches.
        sees_all_maps: it takes `inter_block_attention`.
        tensors: its own tensors, from an architecture.
    """

    depth: int
    predicts_some: bool
    sees_all_maps: bool
    tensors: Callable[[Mapping[str, Any]], TensorShapes]


DECODER_KINDS = {
    "mae": DecoderKind(depth=8, predicts_some=False, sees_all_maps=False, tensors=mae_tensors),  # MAE, sec. 4.1
    "cross": DecoderKind(depth=12, predicts_some=True, sees_all_maps=True, tensors=cross_tensors),  # CrossMAE, sec. 4.1
}
