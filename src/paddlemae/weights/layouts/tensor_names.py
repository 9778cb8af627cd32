"""Tensors under one layout's names into another's, and which way their Linear weights lie.

Our names are the official MAE's; a Linear weight is PyTorch's [out, in] or Paddle's [in, out].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from paddlemae.system.display_names import display_name

# (our name, theirs), both without ".weight" and ".bias"; "{}" is a block's number. All are read, the first of several
# for one of ours is written.
Pairs = tuple[tuple[str, str], ...]
Shapes = Mapping[str, tuple[int, ...]]

WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_layers.", "model.", "backbone.", "encoder.")
# what wrappers of single blocks put into the middle of names: torch.compile, FSDP, activation checkpointing
MARKERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
MAX_TENSORS = 20_000  # a ViT-Huge autoencoder has 500
MAX_LETTERS = 512  # of a name that a pattern is tried on

BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
ENCODER = ("cls_token", "pos_embed", "patch_embed.proj", *(f"blocks.{{}}.{part}" for part in BLOCK), "norm")
CLASSIFIER = ("fc_norm", "head")
DECODER = (
    "mask_token",
    "decoder_embed",
    "decoder_pos_embed",
    *(f"decoder_blocks.{{}}.{part}" for part in BLOCK),
    "decoder_norm",
    "decoder_pred",
)

# Keys of training state next to the weights, in any layout.
TRAINING = (
    (r"(.*\.)?num_batches_tracked", "a counter of batch norm's"),
    (r"(optimizer|lr_scheduler|scaler)\..*", "the training's, not the model's"),
)
# Parts that other transformers have and ours has not.
FOREIGN = (
    (r".*\.(ls[12]\.gamma|gamma_[12]|layer_scale[12]?\.lambda1|lambda1)", "layer scale"),
    (r"(.*\.)?(reg_token|register_tokens)", "register tokens"),
    (r".*\.(q_norm|k_norm)\.(weight|bias)", "norms of queries and keys"),
    (r"(.*\.)?patch_embed\.norm\..*", "a norm in the patch embedding"),
    (r"(.*\.)?(norm_pre|ln_pre|pre_norm)\..*", "a norm before the first block"),
    (r"(.*\.)?patch_embed\.backbone\..*", "a convolutional stem"),
    (r"(.*\.)?(dist_token|head_dist|distillation_token).*", "a distillation token"),
    (r"(.*\.)?(relative_position.*|rel_pos_bias.*)", "relative positions"),
    (r"(.*\.)?pre_logits\..*", "a layer before the head"),
    (r"(.*\.)?attn_pool\..*", "attention pooling"),
    (r".*\.(attn\.norm|mlp\.norm)\..*", "norms inside of a block's layers"),
    (r".*\.mlp\.(w12|w1|w2|w3|fc1_g|fc1_x)\..*", "a gated MLP"),
    (r".*\.(cross_attn|inter_block)\..*|inter_block\..*", "a cross-attention decoder"),
)


def same_names(*names: str) -> Pairs:
    """Return the pairs of a layout that calls these parts as we do."""
    return tuple((name, name) for name in names)


@cache
def _patterns(pairs: Pairs, source: int) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple(
        (re.compile(re.escape(pair[source]).replace(r"\{\}", r"(\d{1,4})") + r"(\.\w+)?"), pair[1 - source])
        for pair in pairs
    )


def our_name(theirs: str, pairs: Pairs) -> str | None:
    """Return our name for a tensor of another layout; None if the pairs lack it."""
    return _translate(theirs, _patterns(pairs, 1))


def their_name(ours: str, pairs: Pairs) -> str:
    """Return another layout's name for a tensor of ours; our name where the layout has none."""
    return _translate(ours, _patterns(pairs, 0)) or ours


def _translate(name: str, patterns: Iterable[tuple[re.Pattern[str], str]]) -> str | None:
    if len(name) > MAX_LETTERS:
        return None
    for pattern, target in patterns:
        found = pattern.fullmatch(name)
        if found:
            *number, ending = found.groups()
            return target.format(*number) + (ending or "")
    return None


def reason(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    """Return the text of the first rule whose pattern matches the whole name."""
    if len(name) > MAX_LETTERS:
        return None
    return next((words for pattern, words in rules if re.fullmatch(pattern, name)), None)


@dataclass
class Draft:
    """Tensors of a file on their way to our names.

    Attributes:
        tensors: our name -> array; views of the file where nothing had to be changed.
        their_name: our name -> what this file calls it, or would call it; by default the same.
        converted, left_over, notes: see `Imported`.
        unknown: the file's names that its layout does not have.
    """

    tensors: dict[str, np.ndarray]
    their_name: Callable[[str], str] = str
    converted: dict[str, str] = field(default_factory=dict)
    left_over: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def set(self, name: str, array: np.ndarray, how: str) -> None:
        """Set a tensor that was made, and note how."""
        self.tensors[name] = array
        self.converted[name] = how


def draft_tensors(
    tensors: Mapping[str, np.ndarray],
    pairs: Pairs,
    left_over: Iterable[tuple[str, str]],
    *,
    bare: Callable[[str], str],
    whole: Callable[[str], str],
) -> Draft:
    """Rename the tensors to our names.

    Args:
        tensors: of a file.
        pairs: its layout's.
        left_over: (pattern of names, why they are not used).
        bare, whole: a name of the file without the prefixes that the pairs don't have, and with them.
    Raises:
        ValueError: two names for one tensor, or an empty tensor.
    """
    rules = (*TRAINING, *left_over)
    origins: dict[str, str] = {}
    draft = Draft({}, lambda ours: origins.get(ours) or whole(their_name(ours, pairs)))
    for name, array in tensors.items():
        why = reason(bare(name), rules)
        ours = None if why else our_name(bare(name), pairs)
        if why:
            draft.left_over[name] = why
        elif array.size == 0:
            raise ValueError(
                f"{display_name(name)} is empty, {list(array.shape)}; the file is damaged or was saved sharded"
            )
        elif ours is None:
            draft.unknown.append(name)
        elif ours in origins:
            raise ValueError(
                f"{display_name(origins[ours])} and {display_name(name)} are both {ours}; one of them is too many"
            )
        else:
            draft.tensors[ours], origins[ours] = array, name
    return draft


def remove_markers(name: str) -> str:
    """Remove the `MARKERS` from a name, wherever they are."""
    for marker in MARKERS:
        if marker in name:
            name = name.replace(f".{marker}", ".").removeprefix(marker)
    return name


def wrapper_prefix(names: Collection[str]) -> str:
    """Return the prefix that model wrappers have put before all names.

    Raises:
        ValueError: far more names than a model has.
    """
    if len(names) > MAX_TENSORS:
        raise ValueError(f"{len(names):,} tensors; no vision transformer has more than {MAX_TENSORS:,}")
    found = ""
    while names and len(found) < MAX_LETTERS:
        more = [one for one in WRAPPERS if all(name.startswith(one, len(found)) for name in names)]
        if not more:
            break
        found += more[0]
    return found


def linear_names(shapes: Shapes) -> list[str]:
    """Return the names of the matrices, which are Linear weights in every layout here."""
    return [name for name, shape in shapes.items() if len(shape) == 2 and name.endswith(".weight")]


def lies_as(shapes: Shapes) -> str | None:
    """Return "torch" for Linear weights [out, in], "paddle" for [in, out]; None if all are square.

    A square one does not tell; those that are not must agree, and their bias or the three parts of `qkv` say which
    side is out.

    Raises:
        ValueError: some lie so and some the other way.
    """
    found: dict[str, str] = {}
    for name in linear_names(shapes):
        rows, columns = shapes[name]
        bias = shapes.get(name.removesuffix("weight") + "bias")
        outputs = bias[0] if bias and len(bias) == 1 else 3 * min(rows, columns) if "qkv" in name else None
        if rows != columns and outputs in (rows, columns):
            found.setdefault("torch" if rows == outputs else "paddle", name)
    if len(found) > 1:
        raise ValueError(
            f"Linear weights that lie both ways: {display_name(found['torch'])} {list(shapes[found['torch']])} is "
            f"[out, in] and {display_name(found['paddle'])} {list(shapes[found['paddle']])} is [in, out]; such a file "
            "can't be trusted"
        )
    return next(iter(found), None)


def transpose_linears(draft: Draft) -> None:
    """Turn Paddle's Linear weights into PyTorch's, square ones too."""
    for name in linear_names({name: array.shape for name, array in draft.tensors.items()}):
        draft.set(name, draft.tensors[name].T, "transposed")
