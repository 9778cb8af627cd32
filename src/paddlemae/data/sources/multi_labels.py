"""Targets of several classes an image: from cells such as `a|b`, or from columns of 0 and 1, one a class."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from paddlemae.data.sources.labels import BadLabel, as_labels, as_some_labels, check_known, sort_names
from paddlemae.data.sources.source import MultiLabelTargets

SEPARATOR = "|"
SETS_COLUMN = "labels"  # whose cells are sets of classes if one of them has a separator
SETS_OPTION = "labels"  # `::labels=COLUMN`, or `::labels=CLASS_A,CLASS_B` of columns of 0 and 1
_FLAGS = {"0": False, "1": True, "": False, "0.0": False, "1.0": True, "false": False, "true": True, "none": False}


def holds_sets(column: str, values: Sequence[Any]) -> bool:
    """Return whether a column's cells are sets of classes: it is called `labels`, and some cell has a separator."""
    return column.lower() == SETS_COLUMN and any(isinstance(value, str) and SEPARATOR in value for value in values)


def option_columns(options: dict[str, str]) -> list[str]:
    """Return the columns that the option `labels` names; none without it."""
    return [name.strip() for name in options.get(SETS_OPTION, "").split(",") if name.strip()]


def targets_of_sets(
    values: Sequence[Any], row_of: Callable[[int], str], where: str, classes: tuple[str, ...] = ()
) -> MultiLabelTargets:
    """Return the targets of cells such as `a|b`; an empty cell is a missing label.

    Args:
        row_of: says where value i is, for errors.
        classes: those of the training split, if they are known already; others are refused then.
    Raises:
        BadLabel: a part of a cell that is neither a name nor a whole number.
        ValueError: fewer than two classes, or one that is not among `classes`.
    """
    cells = as_some_labels(values, row_of)
    names = [None if cell is None else _split_cell(cell, row_of(i)) for i, cell in enumerate(cells)]
    present = {name for each in names if each for name in each}
    classes = classes or sort_names(present)
    check_known(present, classes, where)
    _check_number(classes, where)
    number_of = {name: number for number, name in enumerate(classes)}
    labels_NK = np.zeros((len(names), len(classes)), np.bool_)
    for i, each in enumerate(names):
        labels_NK[i, [number_of[name] for name in each or ()]] = True
    return MultiLabelTargets(labels_NK, classes, np.array([each is not None for each in names], np.bool_))


def _split_cell(cell: str, row: str) -> list[str]:
    return as_labels([part.strip() for part in cell.split(SEPARATOR)], lambda _: row)


def targets_of_flags(
    columns: Mapping[str, Sequence[Any]], row_of: Callable[[int], str], where: str
) -> MultiLabelTargets:
    """Return the targets of columns that hold 1 where an image has a class, and 0 or nothing where it has not.

    Raises:
        BadLabel: another value.
        ValueError: fewer than two columns.
    """
    classes = tuple(columns)
    _check_number(classes, where)
    flags = [_as_flags(name, values, row_of) for name, values in columns.items()]
    labels_NK = np.array(flags, np.bool_).T.copy()
    return MultiLabelTargets(labels_NK, classes, np.ones(len(labels_NK), np.bool_))


def _as_flags(column: str, values: Sequence[Any], row_of: Callable[[int], str]) -> list[bool]:
    texts = ["" if value != value else str(value).strip().lower() for value in values]
    for i, text in enumerate(texts):
        if text not in _FLAGS:
            raise BadLabel(f"{row_of(i)}: expected 0 or 1 in column {column!r}, got {values[i]!r}")
    return [_FLAGS[text] for text in texts]


def _check_number(classes: Collection[str], where: str) -> None:
    if len(classes) < 2:
        raise ValueError(f"labels need at least two classes, but {where} has {''.join(classes)!r} only")
