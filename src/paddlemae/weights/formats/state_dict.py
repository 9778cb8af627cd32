"""The content of a weights file of another program, and the choice of one state dict in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paddlemae.system.display_names import display_name
from paddlemae.weights.formats.mapped_file import release

# Where training scripts put the weights that a user means; any other place has to be asked for by name.
WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict", "module")


@dataclass(eq=False, repr=False, slots=True)
class Opaque:
    """A class, function or call that a file names and the reader neither imported nor called.

    Attributes:
        name: "module.name" as the file has it.
        args: what the file would have called it with; None for the class or function itself.
        state: what the file would have set on the result, such as a Namespace's settings.
        items: what the file would have put into the result; (key, value) pairs for a mapping.
    """

    name: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    items: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Opaque({display_name(self.name)})"  # no contents: they may hold themselves


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class BFloat16:
    """An array of bfloat16, which NumPy has no type for: the upper halves of float32 values.

    Attributes:
        bits: uint16, a view of the file.
    """

    bits: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bits.shape

    def __repr__(self) -> str:
        return f"BFloat16(shape={self.shape})"

    def to_float32(self) -> np.ndarray:
        """Convert exactly: each bfloat16 is a float32 whose lower half is zero."""
        wide = np.array(self.bits, dtype=np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)


@dataclass(frozen=True)
class StateDict:
    """The weights found in a file, and a description of the rest of it.

    Attributes:
        tensors: name -> array. Read-only views of the file, but bfloat16 is widened to float32.
        dtypes: name -> the type in the file, such as "float32" or "bfloat16".
        place: where in the file they were, such as "model"; "" for the whole file.
        others: the other entries of the file, such as {"optimizer": "...", "epoch": "int"}.
        skipped: entries among the weights that are not tensors, with their types.
    """

    tensors: dict[str, np.ndarray]
    dtypes: dict[str, str]
    place: str
    others: dict[str, str]
    skipped: dict[str, str]


def tensors_of(tree: Any, wrapper: str | None = None) -> StateDict:
    """Find the state dict in the content of a file.

    Args:
        tree: from `read_torch` or `read_paddle`.
        wrapper: the key that holds it, such as "teacher", with dots for nested keys, or the prefix of its names
            among other names, such as "backbone"; default: one of `WRAPPERS`, or the whole file if it holds tensors.
    Raises:
        ValueError: there is none, several candidates and no default among them, or an unreadable tensor.
    """
    chosen, path, others = tree, list[str](), dict[str, str]()
    keys = None if wrapper is None else wrapper.split(".")
    while keys is None or keys:
        if not isinstance(chosen, dict):
            raise ValueError(_no_state_dict(chosen, path))
        key = keys.pop(0) if keys else _default_key(chosen)
        if key is None:
            break
        prefix = ".".join([key, *(keys or ())])
        if key not in chosen and (prefixed := _entries_with_prefix(chosen, prefix)):
            path.append(prefix)
            others["others"] = f"{len(chosen) - len(prefixed)} entries of other names"
            chosen = prefixed
            break
        if key not in chosen:
            raise ValueError(
                f"no key {display_name('.'.join([*path, key]))!r} in the file; at that place it holds {_list(chosen)}"
            )
        others |= _describe_others(chosen, path, key)
        chosen = chosen[key]
        path.append(key)
    if not _holds_tensors(chosen):
        raise ValueError(_no_state_dict(chosen, path))
    return _state_dict(chosen, ".".join(path), others)


def describe(value: Any) -> str:
    """Describe a value in a few words, for reports."""
    if _is_tensor(value):
        return f"{_dtype(value)} {list(value.shape)}"
    if isinstance(value, Opaque):
        return display_name(value.name)
    if isinstance(value, dict):
        count = sum(map(_is_tensor, value.values()))
        return f"state dict of {count} tensors" if count else f"dict of {len(value)}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _entries_with_prefix(tree: dict[Any, Any], prefix: str) -> dict[str, Any]:
    """Return the entries whose names begin with a prefix and a dot, without it; none if no tensor is among them."""
    start = f"{prefix}."
    found = {str(name).removeprefix(start): value for name, value in tree.items() if str(name).startswith(start)}
    return found if _holds_tensors(found) else {}


def _describe_others(tree: dict[Any, Any], path: list[str], but: str) -> dict[str, str]:
    """Describe all entries but one. Each value is described once: a file may name one large dict many times."""
    words: dict[int, str] = {}
    for value in tree.values():
        if id(value) not in words:
            words[id(value)] = describe(value)
    return {display_name(".".join([*path, str(key)])): words[id(value)] for key, value in tree.items() if key != but}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, (np.ndarray, BFloat16))


def _dtype(value: np.ndarray | BFloat16) -> str:
    return "bfloat16" if isinstance(value, BFloat16) else value.dtype.name


def _holds_tensors(value: Any) -> bool:
    """Check for tensors among the values of a dict, unreadable ones included."""
    return isinstance(value, dict) and any(_is_tensor(v) or _was_tensor(v) for v in value.values())


def _was_tensor(value: Any) -> bool:
    """Check whether an opaque value stands for a tensor: its arguments hold one, or PyTorch's functions rebuild it."""
    if not isinstance(value, Opaque) or value.args is None:
        return False
    return "._rebuild_" in value.name or value.name.endswith("Storage") or any(map(_is_tensor, value.args[:16]))


def _default_key(tree: dict[Any, Any]) -> str | None:
    """Return the key that holds the weights; None if the dict itself does."""
    for key in WRAPPERS:
        if isinstance(tree.get(key), dict) and tree[key]:
            return key
    if _holds_tensors(tree):
        return None
    whole = [f"{display_name(key)} ({display_name(value.name)})" for key, value in tree.items() if _is_module(value)]
    if whole:
        raise ValueError(f"{', '.join(whole[:3])} is a whole model object; save its state_dict() instead")
    held = [display_name(key) for key, value in tree.items() if isinstance(value, dict) and value]
    if held:
        raise ValueError(f"no weights under {', '.join(WRAPPERS)}; name where they are: {', '.join(held[:20])}")
    raise ValueError(f"no weights in the file, it holds {_list(tree)}; a state dict of tensors was expected")


def _is_module(value: Any) -> bool:
    return isinstance(value, Opaque) and isinstance(value.state, dict) and "_parameters" in value.state


def _no_state_dict(value: Any, path: list[str]) -> str:
    place = display_name(".".join(path)) if path else "the file"
    if _is_module(value):
        return f"{place} is a whole model object ({display_name(value.name)}); save its state_dict() instead"
    return f"{place} is no state dict but {describe(value)}; a dict of named tensors was expected"


def _list(tree: dict[Any, Any], limit: int = 10) -> str:
    held = [f"{display_name(key, 40)} ({describe(value)})" for key, value in list(tree.items())[:limit]]
    rest = f" and {len(tree) - limit} more" if len(tree) > limit else ""
    return (", ".join(held) or "nothing") + rest


def _state_dict(chosen: dict[Any, Any], place: str, others: dict[str, str]) -> StateDict:
    tensors, dtypes, skipped = dict[str, np.ndarray](), dict[str, str](), dict[str, str]()
    for key, value in chosen.items():
        name = str(key)
        if _was_tensor(value):
            raise ValueError(
                f"{display_name(name)} was saved as {display_name(value.name)}, which is not supported; save it as a "
                "plain tensor"
            )
        if isinstance(value, BFloat16):
            tensors[name], dtypes[name] = value.to_float32(), "bfloat16"
            release(value.bits)
        elif isinstance(value, np.ndarray):
            tensors[name], dtypes[name] = value, value.dtype.name
        else:
            skipped[name] = describe(value)
    return StateDict(tensors, dtypes, place, others, skipped)
