"""Whether there is anything to see in a film."""

from __future__ import annotations

import numpy as np


def faintness(film: np.ndarray) -> str:
    """What is odd about a picture that is almost black or almost white all over, "" if nothing.

    It decodes without an error, and a model would learn from it all the same: 12 bits in a file that says 16, a
    window that fits another film.

    Args:
        film: float32 [rows, columns] in [0, 1], 1 is white.
    """
    low, high = float(film.min(initial=1)), float(film.max(initial=0))
    if low == high:
        return "every pixel has the same value"
    if high < 0.25:
        return f"the picture is almost black: its brightest pixel has {high:.0%} of white, so its range or window is wrong"
    if low > 0.75:
        return f"the picture is almost white: its darkest pixel has {low:.0%} of white, so its range or window is wrong"
    return ""
