"""How alike are a reconstruction and a film? Three measures, since each alone can be fooled.

A blurred mean of all chests has a high PSNR with any of them; SSIM asks for its structure; the match rate, whether the
reconstruction tells *this* film from others. Wang et al. 2004 (SSIM), by scikit-image with the paper's parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import KitError

EXACT = 40.0  # dB, a mean error of a hundredth of the range: nobody can see the difference
_WINDOW = 11  # SSIM's window in pixels


@dataclass(frozen=True)
class Similarity:
    """Of each original film, a value; NaN and False where no reconstruction was left for it.

    psnr: in dB. ssim: in [-1, 1], 1 is equal. matched: of all candidates the film itself is the most alike.
    images: which reconstruction is its, -1 for none.
    chance: what the match rate of reconstructions that know nothing comes to, at most.
    """

    psnr: tuple[float, ...]
    ssim: tuple[float, ...]
    matched: tuple[bool, ...]
    images: tuple[int, ...]
    chance: float

    @property
    def match_rate(self) -> float:
        """Share of the films that were recovered."""
        return float(np.mean(self.matched))

    @property
    def best(self) -> tuple[int, ...]:
        """The films that have a reconstruction, the most alike first."""
        return tuple(sorted((i for i, image in enumerate(self.images) if image >= 0), key=lambda i: -self.psnr[i]))

    @property
    def exact(self) -> int:
        """How many films were recovered exactly: PSNR above 40 dB."""
        return int(np.sum(np.array(self.psnr) > EXACT))


def psnr(images: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of pixels in [0, 1]: -10 log10 of the mean squared error.

    Args:
        images, originals: float [n, 1, size, size].

    Returns: dB, [n]; 100 at most (float32 knows no better).
    """
    _check_shapes(images, originals)
    error = (images.double() - originals.double()).square().mean((1, 2, 3))
    return -10 * error.clamp_min(1e-10).log10()


def ssim(images: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """Structural similarity of pixels in [0, 1], Wang et al. 2004: a Gaussian window of 11 pixels, sigma 1.5.

    Args: see `psnr`; films have at least 11 pixels a side.
    Returns: float64 [n] in [-1, 1].
    """
    from skimage.metrics import structural_similarity

    _check_shapes(images, originals)
    if min(images.shape[2:]) < _WINDOW:
        raise KitError(f"SSIM needs films of {_WINDOW} pixels a side or more; these have {min(images.shape[2:])}.")
    paper = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = zip(images[:, 0].double().numpy(), originals[:, 0].double().numpy(), strict=True)
    return torch.tensor([structural_similarity(a, b, **paper) for a, b in pairs], dtype=torch.float64)


def compare_films(
    images: torch.Tensor, originals: torch.Tensor, candidates: torch.Tensor, *, pairs: Sequence[int] | None = None
) -> Similarity:
    """Score reconstructions whose order and number need not be the originals'.

    1. Likeness is the correlation of two films' pixels. (By squared error a picture of pure noise is always most like the
       grayest film, and matches it.)
    2. Each original gets at most one reconstruction, so that the sum of correlations is largest: an attack on a batch
       doesn't know which film was the first.
    3. A film is matched if no candidate is more like its reconstruction than itself. A second film of the same child
       counts as another candidate.

    Step 2 favours a reconstruction's nearest film. So of m reconstructions that are noise, among k candidates, nearly a share
    of 1 - (1 - 1/k)^m of the films is matched: with as many films as candidates 63%. Where `pairs` is given, it's 1/k.

    Args:
        images: float [m, 1, size, size] in [0, 1], the reconstructions.
        originals: float [n, 1, size, size].
        candidates: float [k, 1, size, size], films among which the originals are looked for.
        pairs: which reconstruction is each original's, -1 for none, if that isn't to be found by step 2.
    """
    from scipy.optimize import linear_sum_assignment

    missing = [float("nan")] * len(originals)
    ratios, structures, matched, which = list(missing), list(missing), [False] * len(originals), [-1] * len(originals)
    if len(images):
        own = _correlations(images, originals)
        if pairs is None:
            rows, columns = linear_sum_assignment(own.numpy(), maximize=True)
        else:
            columns = np.flatnonzero(np.array(pairs) >= 0)
            rows = np.array(pairs)[columns]
        most = _correlations(images[rows], candidates).max(1).values
        found = zip(columns, psnr(images[rows], originals[columns]), ssim(images[rows], originals[columns]), strict=True)
        for place, (film, ratio, structure) in enumerate(found):
            ratios[film], structures[film], which[film] = float(ratio), float(structure), int(rows[place])
            matched[film] = bool(own[rows[place], film] >= most[place] - 1e-9)  # the film itself may be a candidate
    tries = len(images) if pairs is None else 1
    return Similarity(tuple(ratios), tuple(structures), tuple(matched), tuple(which), 1 - (1 - 1 / len(candidates)) ** tries)


def _correlations(images: torch.Tensor, films: torch.Tensor) -> torch.Tensor:
    """Pearson's, of pixels: float64 [images, films]; 0 with a film of one gray."""
    one, other = (part.flatten(1).double() for part in (images, films))
    one, other = (F.normalize(part - part.mean(1, keepdim=True), dim=1) for part in (one, other))
    return one @ other.T


def _check_shapes(images: torch.Tensor, originals: torch.Tensor) -> None:
    if images.shape != originals.shape or images.dim() != 4 or images.shape[1] != 1:
        raise KitError(
            f"Films are compared as [n, 1, size, size]; these have shapes {tuple(images.shape)} and {tuple(originals.shape)}."
        )
