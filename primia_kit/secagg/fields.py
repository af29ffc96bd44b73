"""Real numbers as 32-bit words that can be added modulo 2^32 without anybody seeing them.

Nobody can see an overflow in a masked sum, so it is excluded before: every part of the vector has a
`Field` with a bound, each site checks its own values against it, and the sum of as many sites as there
are is made to fit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import KitError
from .vectors import extremes, in_threads

LOW_BITS = 24  # of the lower of two words: 255 sites' low words add up to less than 2^32
MOST_SITES = 255
_FINEST = 2.0**-100  # a float32 can be multiplied by its inverse
_BLOCK = 1 << 16  # values encoded at a time, so that intermediate results stay in the cache


@dataclass(frozen=True)
class Field:
    """The range of one part's values, and how finely they are told.

    A value x travels as the whole number round(x / resolution), which changes it by at most half the
    resolution; the sum over n sites is off by at most n * resolution / 2.

    bound: the largest magnitude of a value at one site; a larger one is an error, never clipped.
    resolution: a power of two; None for the finest that the sum leaves room for.
    words: 1, or 2 for values that need more than 32 bits (counts, sums of squares): a low word of 24 bits
        and a high one. Room for |sum| / resolution: 2^31 with one word, 2^55 with two.

    Raises: KitError for a bound, a resolution or a number of words that can't be.
    """

    bound: float
    resolution: float | None = None
    words: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise KitError(f"A field's bound is {self.bound}; it must be finite and above 0.")
        if self.resolution is not None and (
            not math.isfinite(self.resolution) or self.resolution < _FINEST or math.frexp(self.resolution)[0] != 0.5
        ):
            raise KitError(f"A field's resolution is {self.resolution}; it must be a power of two, for example 2.0**-16.")
        if self.words not in (1, 2):
            raise KitError(f"A field has {self.words} words; there are fields of 1 and of 2.")

    def fitted(self, name: str, sites: int) -> Field:
        """The same field with its resolution settled, when as many sites are added up.

        Raises: KitError that names the field if the sum could overflow.
        """
        if not 1 <= sites <= MOST_SITES:
            raise KitError(f"Field {name!r}: {sites} sites can't be added up; 1 to {MOST_SITES} can.")
        room = (2**31 - 1) // sites
        if self.words == 2:
            room <<= LOW_BITS
        resolution = self.resolution
        if resolution is None:
            resolution = max(2.0 ** math.ceil(math.log2(self.bound / room)), _FINEST)
            if self.bound / resolution > room:  # log2 was rounded down
                resolution *= 2
        if math.ceil(self.bound / resolution) > room:
            more = ", or two words" if self.words == 1 else ""
            raise KitError(
                f"Field {name!r} could overflow: {sites} sites x bound {self.bound:g} / resolution {resolution:g} needs more "
                f"than {room * sites:.3g} steps. Give it a coarser resolution, a lower bound{more}."
            )
        return Field(self.bound, resolution, self.words)


def fit(purpose: str, contribution: Mapping[str, torch.Tensor], fields: Mapping[str, Field], sites: int) -> dict[str, Field]:
    """The fields of a contribution's parts for as many sites, in its order.

    Raises: KitError for a part without a field, and for a field whose sum could overflow.
    """
    for name in contribution:
        if name not in fields:
            raise KitError(f"{purpose}: no field says how large {name!r} may become; add one to `fields`.")
    return {name: fields[name].fitted(name, sites) for name in contribution}


def check_part(purpose: str, site: str, name: str, part: torch.Tensor, field: Field | None) -> None:
    """Refuse a part that isn't finite, or that leaves its field's range."""
    if not part.is_floating_point():
        raise KitError(f"{purpose}: {name!r} of site {site} is {part.dtype}; contributions are floating-point numbers.")
    low, high = extremes(_reals(part))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise KitError(f"{purpose}: {name!r} of site {site} isn't finite: its training diverged (lower learning_rate).")
    if field is not None and max(-low, high) > field.bound:
        raise KitError(
            f"{purpose}: {name!r} of site {site} reaches {max(-low, high):.4g}, out of its field's range of ±{field.bound:.4g}: "
            f"either its training diverged (lower learning_rate), or the field's bound is too low."
        )


@dataclass(frozen=True)
class Part:
    """A part's place in the vector."""

    name: str
    shape: torch.Size
    dtype: torch.dtype
    field: Field
    start: int  # its first word

    @property
    def words(self) -> int:
        return self.shape.numel() * self.field.words


@dataclass(frozen=True)
class Layout:
    """How a contribution lies in a vector of 32-bit words; the same at every site."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, purpose: str, contribution: Mapping[str, torch.Tensor], fields: Mapping[str, Field], sites: int) -> Layout:
        """For contributions of these names, shapes and dtypes, from as many sites (errors: see `fit`)."""
        parts, start = [], 0
        for name, field in fit(purpose, contribution, fields, sites).items():
            part = Part(name, contribution[name].shape, contribution[name].dtype, field, start)
            parts.append(part)
            start += part.words
        return cls(tuple(parts))

    @property
    def words(self) -> int:
        return sum(part.words for part in self.parts)

    @property
    def digest(self) -> bytes:
        """SHA-256 of all that both ends must agree on."""
        parts = [[p.name, list(p.shape), p.field.bound, p.field.resolution, p.field.words] for p in self.parts]
        return hashlib.sha256(json.dumps(parts).encode()).digest()

    def encode(self, purpose: str, site: str, contribution: Mapping[str, torch.Tensor], into: np.ndarray) -> None:
        """Write a contribution into a uint32 vector [words], as signed numbers modulo 2^32.

        Raises: KitError that names site and part if a value isn't finite or isn't in its field's range.
        """
        signed = into.view(np.int32)
        for part in self.parts:
            values = contribution[part.name].detach().reshape(-1)
            check_part(purpose, site, part.name, values, part.field)
            encode = _encode_word if part.field.words == 1 else _encode_two_words
            encode(values, part.field.resolution, signed[part.start : part.start + part.words])

    def decode(self, words: np.ndarray) -> dict[str, torch.Tensor]:
        """The sum of contributions from the sum of their vectors, a uint32 vector [words]."""
        sums, signed = {}, words.view(np.int32)
        for part in self.parts:
            decode = _decode_word if part.field.words == 1 else _decode_two_words
            values = decode(signed[part.start : part.start + part.words], part.field.resolution, part.dtype)
            sums[part.name] = values.to(part.dtype).reshape(part.shape)
        return sums


def _reals(values: torch.Tensor) -> np.ndarray:
    """A flat array that shares the tensor's memory where it can: numpy knows no bfloat16."""
    flat = values.detach().reshape(-1)
    return (flat if flat.dtype in (torch.float32, torch.float64) else flat.float()).numpy()


def _encode_word(values: torch.Tensor, resolution: float, into: np.ndarray) -> None:
    # A float32 times a power of two is exact, and so is a rounded one as an int32.
    reals = _reals(values)

    def encode(start: int, stop: int) -> None:
        steps = np.empty(min(_BLOCK, stop - start), reals.dtype)
        for at in range(start, stop, _BLOCK):
            block = reals[at : min(at + _BLOCK, stop)]
            own = steps[: len(block)]
            np.multiply(block, 1 / resolution, out=own)
            np.rint(own, out=own)
            np.copyto(into[at : at + len(block)], own, casting="unsafe")

    in_threads(encode, len(reals), _BLOCK)


def _decode_word(words: np.ndarray, resolution: float, dtype: torch.dtype) -> torch.Tensor:
    reals = np.empty(len(words), np.float32 if dtype == torch.float32 else np.float64)

    def decode(start: int, stop: int) -> None:
        for at in range(start, stop, _BLOCK):
            block = reals[at : min(at + _BLOCK, stop)]
            np.copyto(block, words[at : at + len(block)], casting="unsafe")
            np.multiply(block, resolution, out=block)

    in_threads(decode, len(words), _BLOCK)
    return torch.from_numpy(reals)


def _encode_two_words(values: torch.Tensor, resolution: float, into: np.ndarray) -> None:
    whole = np.rint(values.double().numpy() / resolution).astype(np.int64)
    low, high = into.reshape(2, -1)
    low[:] = whole & (2**LOW_BITS - 1)
    high[:] = whole >> LOW_BITS


def _decode_two_words(words: np.ndarray, resolution: float, dtype: torch.dtype) -> torch.Tensor:
    low, high = words.reshape(2, -1)
    whole = (high.astype(np.int64) << LOW_BITS) + low.view(np.uint32)
    return torch.from_numpy(whole * resolution)
