"""Format numbers and settings for the report."""

from __future__ import annotations

import json
import math
from typing import Any


def text(value: Any) -> str:
    """Format a setting as in a recipe."""
    if value is None:
        return "not set"
    return value if isinstance(value, str) else json.dumps(value)


def number(value: Any) -> str:
    """Format a number with thousands separators: 50,000 or 1.02."""
    if finite(value) is None:
        return "unknown" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def percent(share: Any) -> str:
    """Format 0.815 as 81.5%."""
    return "unknown" if finite(share) is None else f"{share:.1%}"


def interval(ends: Any) -> str:
    """Format the ends of an interval of shares as 49.2 to 63.1%; nothing without them."""
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}%" if ends else ""


def points(difference: float | None) -> str:
    """Format a difference of two shares in percentage points, with its sign."""
    return "" if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def short(value: Any) -> str:
    """Format a number with four significant digits: 0.6006 or 1.2e-7."""
    return "unknown" if finite(value) is None else f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e")


def duration(seconds: Any) -> str:
    """Format seconds: 41 s, 2 min 21 s, 3 h 12 min."""
    if finite(seconds) is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def finite(value: Any) -> int | float | None:
    """Return the value if it is a finite number, else None."""
    try:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an int beyond any float
        return None
    return value if number else None
