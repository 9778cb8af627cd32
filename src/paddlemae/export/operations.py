"""Operations that several parts of a graph share: blocks of a transformer, reshapes, linear layers.

Operations are ONNX's, by name and meaning. Linear weights are Paddle's, [in, out], under the names that they have in
the model.

Shapes: B images, N tokens, D or E width, Q tokens that ask, R rows of a batch, d width of a head, H heads.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from paddlemae.model.blocks import NORM_EPSILON

LAST = np.iinfo(np.int64).max  # where a slice ends that goes to the end
Value = Any  # of a graph: an array that is known when it runs
Count = int | Value  # a number, known already or, int64 [1], when the graph runs


class Graph(Protocol):
    """The operations that an engine's graph must offer.

    Attributes:
        weights: arrays by name, of which the file gets those that are asked for.
    """

    weights: dict[str, np.ndarray]

    def input(self, name: str) -> Value:
        """Add an input of the interface."""

    def constant(self, name: str, array: np.ndarray) -> Value:
        """Add an array to the file, once."""

    def numbers(self, *values: Count) -> Any:
        """Add an int64 constant [n], the form of shapes and axes."""

    def number(self, value: float) -> Any:
        """Add a float32 scalar."""

    def add(self, operation: str, *inputs: Any, name: str | None = None, **attributes: Any) -> Value:
        """Add an operation of one output; `name` makes that an output of the interface."""

    def scores(self, query_BHQd: Value, key_BNHd: Value) -> Value:
        """Multiply each query with the keys of its head: [B, H, Q, N]."""

    def resize(self, x_BChw: Value, height: Count, width: Count, mode: str) -> Value:
        """Resize maps by "linear" or "cubic" interpolation, pixels as areas, without antialiasing."""


def first_tokens(graph: Graph, x_RD: Value, tokens: Count, width: int) -> Value:
    """Return the first token of each image, [B, D]."""
    first_B1D = cut(graph, reshape(graph, x_RD, -1, tokens, width), 0, 1, axis=1)
    return reshape(graph, first_B1D, -1, width)


def batch_size(graph: Graph) -> Value:
    """Return the batch size, int64 [1]."""
    return graph.add("Shape", graph.input("images"), start=0, end=1)


def for_each_image(graph: Graph, x_1ND: Value, tokens: int, width: int) -> Value:
    return graph.add("Expand", x_1ND, graph.numbers(batch_size(graph), tokens, width))


def block(
    graph: Graph,
    x_RD: Value,
    name: str,
    tokens: Count,
    heads: int,
    only_first: bool = False,
    bias_HNN: Value | None = None,
) -> Value:
    """Compute `blocks.Block` for all tokens or for each image's first; the bias is added to the scores of all."""
    seen_RD = norm(graph, x_RD, f"{name}.norm1")
    if only_first:
        width = graph.weights[f"{name}.norm1.weight"].size
        x_RD = first_tokens(graph, x_RD, tokens, width)
        attended_RD = attention_of_first(graph, seen_RD, tokens, f"{name}.attn", heads)
    else:
        attended_RD = attention(graph, seen_RD, tokens, seen_RD, tokens, f"{name}.attn", heads, bias_HNN)
    return mlp(graph, graph.add("Add", x_RD, attended_RD), name)


def attention(
    graph: Graph,
    asking_RD: Value,
    queries: Count,
    memory_RE: Value,
    tokens: Count,
    layer: str,
    heads: int,
    bias_HQN: Value | None = None,
) -> Value:
    """Compute `blocks.Attention` or `cross.CrossAttention`, `queries` by `tokens` per image: [R, D]."""
    width = graph.weights[f"{layer}.q.bias"].size

    def split(x: Value, part: str, count: Count) -> Value:
        return reshape(graph, linear(graph, x, f"{layer}.{part}"), -1, count, heads, width // heads)

    query_BHQd = graph.add("Transpose", split(asking_RD, "q", queries), perm=[0, 2, 1, 3])
    value_BHNd = graph.add("Transpose", split(memory_RE, "v", tokens), perm=[0, 2, 1, 3])
    scores_BHQN = graph.scores(query_BHQd, split(memory_RE, "k", tokens))
    if bias_HQN is not None:
        scores_BHQN = graph.add("Add", scores_BHQN, bias_HQN)
    shares_BHQN = graph.add("Softmax", scores_BHQN, axis=-1)
    mixed_BQHd = graph.add("Transpose", graph.add("MatMul", shares_BHQN, value_BHNd), perm=[0, 2, 1, 3])
    return linear(graph, reshape(graph, mixed_BQHd, -1, width), f"{layer}.proj")


def attention_of_first(graph: Graph, seen_RD: Value, tokens: Count, layer: str, heads: int) -> Value:
    """Compute `attention` of each image's first token, [B, D], without a product for every token's key and value.

    Each head's query is multiplied by the keys' weights instead, and the tokens are mixed before they are multiplied by
    the values'. The keys' bias adds the same to all scores of a query, so softmax takes no notice; a query's shares add
    up to 1, so the values' bias comes through whole.
    """
    width = graph.weights[f"{layer}.q.bias"].size
    key_DHd, value_DHd = (graph.weights[f"{layer}.{part}.weight"].reshape(width, heads, -1) for part in "kv")
    key_HdD = graph.constant(f"{layer}.k.weight.turned", key_DHd.transpose(1, 2, 0))
    value_HDd = graph.constant(f"{layer}.v.weight.turned", value_DHd.transpose(1, 0, 2))
    seen_BND = reshape(graph, seen_RD, -1, tokens, width)
    first_BD = first_tokens(graph, seen_RD, tokens, width)
    query_BH1d = reshape(graph, linear(graph, first_BD, f"{layer}.q"), -1, heads, 1, width // heads)
    query_B1HD = reshape(graph, graph.add("MatMul", query_BH1d, key_HdD), -1, 1, heads, width)
    scores_B1HN = graph.scores(query_B1HD, reshape(graph, seen_RD, -1, tokens, 1, width))
    shares_BHN = reshape(graph, graph.add("Softmax", scores_B1HN, axis=-1), -1, heads, tokens)
    mixed_BH1D = reshape(graph, graph.add("MatMul", shares_BHN, seen_BND), -1, heads, 1, width)
    mixed_BD = reshape(graph, graph.add("MatMul", mixed_BH1D, value_HDd), -1, width)
    return linear(graph, graph.add("Add", mixed_BD, weight(graph, f"{layer}.v.bias")), f"{layer}.proj")


def mlp(graph: Graph, x_RD: Value, name: str) -> Value:
    """Compute `x + mlp(norm(x))`."""
    hidden = graph.add("Gelu", linear(graph, norm(graph, x_RD, f"{name}.norm2"), f"{name}.mlp.fc1"))
    return graph.add("Add", x_RD, linear(graph, hidden, f"{name}.mlp.fc2"))


def reshape(graph: Graph, x: Value, *shape: Count) -> Value:
    """Reshape; -1 stands for the size that the other dimensions leave."""
    return graph.add("Reshape", x, graph.numbers(*shape))


def cut(graph: Graph, x: Value, start: int, stop: int, axis: int) -> Value:
    return graph.add("Slice", x, graph.numbers(start), graph.numbers(stop), graph.numbers(axis))


def weight(graph: Graph, name: str) -> Value:
    return graph.constant(name, graph.weights[name])


def linear(graph: Graph, x_RD: Value, layer: str) -> Value:
    return graph.add("Gemm", x_RD, weight(graph, f"{layer}.weight"), weight(graph, f"{layer}.bias"))


def norm(graph: Graph, x: Value, layer: str) -> Value:
    scale, shift = weight(graph, f"{layer}.weight"), weight(graph, f"{layer}.bias")
    return graph.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=NORM_EPSILON)


def without_cls(graph: Graph, x_BND: Value, has_cls: bool) -> Value:
    return cut(graph, x_BND, 1, LAST, axis=1) if has_cls else x_BND
