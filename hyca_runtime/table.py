"""Arrays of numbers inside a plan: nested lists while small, packed float32 when large."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

import numpy as np

MAX_READABLE = 4096
"""Largest table, in numbers, that is written as nested lists."""

SIGNIFICANT_DIGITS = 9  # enough to give back every float32
EXACT_POWER = 22
"""The largest power of ten that a float64 holds exactly."""
SURE = 1e-5
"""So far from the middle of two whole numbers rounding cannot go wrong."""


def pack_table(values: np.ndarray) -> Any:
    """JSON form of `values`; float32 precision is kept."""
    table = np.ascontiguousarray(values, dtype="<f4")
    if table.size > MAX_READABLE:
        return {"shape": list(table.shape), "float32": base64.b64encode(table.tobytes()).decode("ascii")}
    rounded = _rounded(table.astype(np.float64).ravel())
    return rounded.reshape(table.shape).tolist()


def _rounded(values: np.ndarray) -> np.ndarray:
    """`values` to `SIGNIFICANT_DIGITS`, bit for bit as their decimal text is read.

    A whole number below 2^53 over an exact power of ten is what its text is read as. Where it is not certain which
    whole number, the text decides.
    """
    with np.errstate(all="ignore"):
        places = SIGNIFICANT_DIGITS - 1 - np.floor(np.log10(np.abs(values)))
        power = np.float_power(10.0, np.abs(places))
        digits = np.where(places < 0, values / power, values * power)
        whole = np.rint(digits)
        found: np.ndarray = np.where(places < 0, whole * power, whole / power)
        apart = np.abs(np.abs(digits - whole) - 0.5)
        least = 10.0 ** (SIGNIFICANT_DIGITS - 1)
        in_range = (np.abs(places) <= EXACT_POWER) & (np.abs(whole) >= least) & (np.abs(whole) < 10 * least)
    for i in np.flatnonzero(~in_range | ~(apart > SURE)):
        found[i] = float(f"{values[i]:.{SIGNIFICANT_DIGITS}g}") if values[i] else values[i]
    return found


def unpack_table(packed: Any) -> np.ndarray:
    """Inverse of `pack_table`, as float64.

    Raises:
        ValueError: ragged, truncated, or not finite.
    """
    if isinstance(packed, dict):
        if set(packed) != {"shape", "float32"}:
            raise ValueError(f"table: expected the keys shape and float32, got {sorted(packed)}")
        shape, text = packed["shape"], packed["float32"]
        if not (isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape) and isinstance(text, str)):
            raise ValueError("table: expected a list of sizes and base64 text")
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(f"table: not base64: {error}") from error
        if len(data) != 4 * math.prod(shape):
            raise ValueError(f"table: shape {shape} needs {4 * math.prod(shape)} bytes, got {len(data)}")
        values = np.frombuffer(data, dtype="<f4").reshape(shape).astype(np.float64)
    else:
        try:
            values = np.asarray(packed, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"table: expected nested lists of numbers of even length: {error}") from error
    if not np.isfinite(values).all():
        raise ValueError("table: every number must be finite, got NaN or infinity")
    return values
