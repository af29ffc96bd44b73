"""Whether a picture looks like the negative of what its header says."""

from __future__ import annotations

import numpy as np

from .header import tag_name


def contradictions(shown: np.ndarray) -> list[str]:
    """A warning if the picture contradicts its header's polarity: it is never turned round.

    In a frontal chest film with 1 as white, the mediastinum is brighter than the lungs and the middle brighter than
    the edge. Both hold for each of 600 films of the Kermany set that were measured; both must fail for a warning.

    Args:
        shown: float32 [rows, columns] in [0, 1], 1 is white.
    """
    if min(shown.shape) < 64:
        return []
    step = max(1, min(shown.shape) // 256)
    small = shown[::step, ::step]
    low, high = np.percentile(small, (1, 99))
    rows, columns = small.shape

    def median(top, bottom, left, right):
        return float(np.median(small[int(top * rows) : int(bottom * rows), int(left * columns) : int(right * columns)]))

    lungs = (median(0.25, 0.6, 0.2, 0.38) + median(0.25, 0.6, 0.62, 0.8)) / 2
    mediastinum = median(0.3, 0.7, 0.45, 0.55)
    width = max(1, min(rows, columns) // 25)
    edge = float(np.median(np.concatenate([small[: 2 * width].ravel(), small[:, :width].ravel(), small[:, -width:].ravel()])))
    middle = median(0.2, 0.8, 0.4, 0.6)
    if mediastinum - lungs >= -0.05 * (high - low) or middle >= edge or high <= low:
        return []
    tag = tag_name("PhotometricInterpretation")
    return [
        f"{tag} was followed, but the picture looks like a negative: lungs brighter than the mediastinum, edges than the middle."
    ]
