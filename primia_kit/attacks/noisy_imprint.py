"""Reading an imprint through the noise of differential privacy, by a server that has films of its own.

    M    rows of the noised sum, [bins, pixels + 1] (`imprint_rows`)       C, z  clipping norm, noise multiplier
    L    [bins, chosen bins], 1 where a film of a bin is active in a row: the identity if windowed, else triangular
    y    a film as the model sees it with a 1 behind, [x, 1]: a film's part of M is a y in each of its k rows, a its factor

Differential privacy clips a child's whole gradient to C and adds noise of deviation z C to every number, so that |a| is at
most C / (|y| sqrt(k)). What the plain reading throws away is used here: rows that hold the same films are averaged, rounds
with the same films too (by the caller: R rounds averaged are one of z / sqrt(R), which is what composition says), and
chests look alike, which the server knows from public films.

Such a reader sees more than the plain one, and no more than epsilon allows any reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..errors import KitError
from .imprint import ImprintSpec, as_films, imprint_rows

_SLACK = 1.5  # a film's length |y| may be less than the public mean's by this factor


@dataclass(frozen=True)
class NoisyImprinted:
    """What the server made out, of each bin that was read.

    images: float32 [m, 1, size, size] in [0, 1], the likeliest film; where noise hides it, the public mean.
    unshrunk: float32 [m, 1, size, size], noise and all: what to compare with films that are suspected to be there.
    bins: int64 [m].
    """

    images: torch.Tensor
    unshrunk: torch.Tensor
    bins: torch.Tensor


def read_noisy_imprint(
    spec: ImprintSpec,
    noised: Mapping[str, torch.Tensor],
    public: torch.Tensor,
    *,
    clip: float,
    noise_multiplier: float,
    bins: Sequence[int] | None = None,
) -> NoisyImprinted:
    """The likeliest film of each bin of a clipped and noised imprint, in closed form.

    1. U <- (L^T L)^-1 L^T M, least squares: of each bin the sum of its a y, with noise of deviation
       s = z C sqrt(((L^T L)^-1)_bb). Of the triangular L it's the difference of two means of rows.
    2. a <- the mean of two estimates, weighted by precision: U's last entry, of deviation s; and U along the public films'
       mean m, <U, m> / |m|^2, of deviation (s / |m|, and how much that differs between public films). Its size is kept
       above that deviation, and below the largest that clipping leaves to a film that is much less than the public ones.
    3. r <- U / a - m, and x <- m + S (S + (s / a)^2)^-1 r, S the covariance of public films (by Ledoit & Wolf 2004, since
       they are few): Wiener's filter, the likeliest film if films are normally distributed.

    Args:
        noised: a sum of clipped gradients with its noise, or any multiple of it, as `clip` says.
        public: films that the server has, float32 [n, 1, size, size].
        clip: C on the scale of `noised`: what one child's gradient measures at most. noise_multiplier: z, above 0.
        bins: those that hold films, if the server knows; the fewer, the more rows are averaged. Default: all.

    Raises: KitError for an update without this imprint, fewer than two public films, or noise of 0 (use `read_imprint`).
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    if not (clip > 0 and noise_multiplier > 0):
        raise KitError(f"clip is {clip} and noise_multiplier {noise_multiplier}; both are above 0, or read_imprint is exact.")
    if len(public) < 2:
        raise KitError(f"{len(public)} public film(s): what films have in common takes two at least.")
    rows, chosen = imprint_rows(spec, noised), torch.arange(spec.bins) if bins is None else torch.as_tensor(bins)
    active = torch.eye(spec.bins, dtype=torch.float64)
    active = (active if spec.windowed else torch.ones_like(active).triu())[:, chosen]
    inverse = torch.linalg.inv(active.T @ active)
    sums, noise = inverse @ active.T @ rows, noise_multiplier * clip * inverse.diagonal().sqrt()

    known = spec.normalise(public).flatten(1).double()
    known = torch.cat([known, torch.ones(len(known), 1)], dim=1)
    mean, size = known.mean(0), known.norm(dim=1).mean()
    # S = (1 - d) X^T X + d v I, of which the few films' X^T X has few directions: no matrix of pixels by pixels is needed.
    shrinkage = ledoit_wolf_shrinkage((known - mean).numpy(), assume_centered=True)
    _, widths, directions = torch.linalg.svd((known - mean) / len(known) ** 0.5, full_matrices=False)
    elsewhere = shrinkage * widths.square().sum() / known.shape[1]
    variances = (1 - shrinkage) * widths.square() + elsewhere

    largest = _SLACK * clip / size / active.sum(0).sqrt()
    along, differs = sums @ mean / mean.square().sum(), (known @ mean / mean.square().sum()).var()
    precisions = noise**-2, 1 / (noise.square() / mean.square().sum() + largest.square() * differs)
    factor = (precisions[0] * sums[:, -1] + precisions[1] * along) / sum(precisions)
    least = torch.minimum(sum(precisions).rsqrt(), largest)
    factor = torch.where(factor < 0, -1.0, 1.0) * factor.abs().clamp(least, largest)

    rest, blur = sums / factor[:, None] - mean, (noise / factor).square()[:, None]
    kept, kept_elsewhere = variances / (variances + blur), elsewhere / (elsewhere + blur)
    likeliest = mean + kept_elsewhere * rest + (rest @ directions.T * (kept - kept_elsewhere)) @ directions
    images = as_films(spec, likeliest[:, :-1]).clamp(0, 1)
    return NoisyImprinted(images, as_films(spec, (mean + rest)[:, :-1]), chosen)
