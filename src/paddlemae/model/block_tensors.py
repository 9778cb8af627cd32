"""Names and shapes of the tensors of blocks and decoders, as files hold them (PyTorch's layout)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TensorShapes = dict[str, tuple[int, ...]]


def mae_tensors(architecture: Mapping[str, Any]) -> TensorShapes:
    """Return the tensors between the tokens that a decoder is given and its last norm."""
    narrow, hidden = architecture["decoder_embed_dim"], decoder_hidden(architecture)
    shapes: TensorShapes = {
        "decoder_embed.weight": (narrow, architecture["embed_dim"]),
        "decoder_embed.bias": (narrow,),
    }
    for number in range(architecture["decoder_depth"]):
        shapes |= block_tensors(f"decoder_blocks.{number}", narrow, hidden)
    return shapes


def cross_tensors(architecture: Mapping[str, Any]) -> TensorShapes:
    """Return the same of a cross-attention decoder."""
    width, narrow, depth = (architecture[name] for name in ("embed_dim", "decoder_embed_dim", "decoder_depth"))
    shapes: TensorShapes = {}
    for number in range(depth):
        block = f"decoder_blocks.{number}"
        whole = block_tensors(block, narrow, decoder_hidden(architecture))
        shapes |= {name: shape for name, shape in whole.items() if ".qkv." not in name}
        for part, shape in {"q": (narrow, narrow), "kv": (2 * narrow, width)}.items():
            shapes |= {f"{block}.attn.{part}.weight": shape, f"{block}.attn.{part}.bias": shape[:1]}
    if architecture.get("inter_block_attention", True):
        shapes |= {"inter_block.weight": (depth, architecture["depth"] + 1)}
        for number in range(depth):
            names = (f"inter_block.norms.{number}.{part}" for part in ("weight", "bias"))
            shapes |= dict.fromkeys(names, (width,))
    return shapes


def decoder_hidden(architecture: Mapping[str, Any]) -> int:
    """Return the hidden width of a decoder's MLPs."""
    return int(architecture["decoder_embed_dim"] * architecture["mlp_ratio"])


def block_tensors(prefix: str, width: int, hidden: int) -> TensorShapes:
    """Return the tensors of a block with self-attention."""
    weights = {"norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width), "norm2": (width,)}
    weights |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    shapes: TensorShapes = {}
    for part, shape in weights.items():
        shapes |= {f"{prefix}.{part}.weight": shape, f"{prefix}.{part}.bias": shape[:1]}
    return shapes
