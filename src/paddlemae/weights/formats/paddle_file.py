"""Paddle's .pdparams and .pdopt files without Paddle, and without running what they hold.

paddle.save pickles dicts of NumPy arrays. A tensor outside of a state dict is `tuple((name, array))`; one of a static
graph is `eval("data", {"data": array})`, which is recognised by its form, not evaluated. Protocols 2 and 3 cut large
arrays into flat slices. bfloat16 is written as uint16. Described by Paddle's `framework/io.py` and `io_utils.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from paddlemae.weights.formats.file_kind import kind_of, read_as
from paddlemae.weights.formats.mapped_file import release
from paddlemae.weights.formats.pickle_calls import PLAIN, Functions
from paddlemae.weights.formats.pickles import read_pickle
from paddlemae.weights.formats.state_dict import BFloat16, Opaque

NAMES = "StructuredToParameterName@@"  # structured name -> Paddle's generated one; no weights
SLICES = "UnpackBigParamInfor@@"  # name -> the shape and the keys of the slices of a large array


def read_paddle(path: str | Path) -> Any:
    """Read a file of paddle.save as `paddle.load` would, but into plain values.

    Args:
        path: its content decides what it is, not its name.
    Returns:
        As `paddlemae.weights.formats.torch_file.read_torch`; uint16 arrays come as `BFloat16`.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, or damaged, or built to harm.
    """
    path = Path(path)
    if path.suffix in (".pdiparams", ".pdmodel") and kind_of(path) == "unknown":
        raise ValueError(f"{path} is a model for inference; name the .pdparams file that it was exported from")
    return read_as(path, {"pickle": _read})


def _read(data: memoryview) -> Any:
    tree, end = read_pickle(data, functions=FUNCTIONS)
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes follow the pickle; paddle.save writes nothing there")
    return _as_saved(_join_slices(tree, len(data)) if isinstance(tree, dict) and SLICES in tree else tree)


def _tensor_of_pair(pair: Any = ()) -> Any:
    if not isinstance(pair, (list, tuple)):
        raise TypeError(f"tuple of {type(pair).__name__}")
    if len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], np.ndarray):
        return pair[1]
    return tuple(pair)


def _tensor_of_eval(code: Any, names: Any = None, *rest: Any) -> Any:
    """Return a static graph's tensor, which Paddle writes so. Any other text stays unread, and unevaluated."""
    if code == "data" and not rest and isinstance(names, dict) and isinstance(names.get("data"), np.ndarray):
        return names["data"]
    return Opaque("builtins.eval", (code, names, *rest))


FUNCTIONS: Functions = {
    **PLAIN,
    **{f"{module}.tuple": _tensor_of_pair for module in ("builtins", "__builtin__")},
    **{f"{module}.eval": _tensor_of_eval for module in ("builtins", "__builtin__")},
}


def _as_saved(value: Any, done: dict[int, Any] | None = None) -> Any:
    """Remove tensor names from the tree and mark bfloat16 arrays; shared values stay shared."""
    done = {} if done is None else done
    if id(value) in done:
        return done[id(value)]
    result = value
    if isinstance(value, np.ndarray) and value.dtype == np.uint16:
        result = BFloat16(value)
    elif isinstance(value, dict):
        result = {key: _as_saved(part, done) for key, part in value.items() if key != NAMES}
    elif isinstance(value, (list, tuple)):
        result = type(value)(_as_saved(part, done) for part in value)
    done[id(value)] = result
    return result


def _join_slices(saved: dict[Any, Any], limit: int) -> dict[Any, Any]:
    """Join the slices of large arrays in a dict; together they take at most `limit` bytes, as in the file."""
    tree = {key: value for key, value in saved.items() if key != SLICES}
    try:
        for name, record in saved[SLICES].items():
            parts = [tree.pop(key) for key in record["slices"]]
            limit -= sum(part.nbytes for part in parts)
            if limit < 0:
                raise ValueError
            tree[name] = np.concatenate(parts).reshape(record["OriginShape"])
            tree[name].flags.writeable = False
            for part in parts:
                release(part)
    except (AttributeError, KeyError, TypeError, ValueError) as fault:
        raise ValueError("the slices of its large arrays do not fit together; copy the file again") from fault
    return tree
