"""Three hospitals' X-ray equipment: from an attenuation map to the values that a detector stores.

The same chest looks different at each hospital, since dose, scatter, sharpness, processing, bit depth,
polarity and geometry differ: the domain shift that a federation has to live with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter, zoom

from .anatomy import RENDER_SIZE

_GLYPHS = {  # lead side markers, 5 x 7
    "R": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
}


@dataclass(frozen=True)
class Equipment:
    """One hospital's detector, its processing and the habits of its radiographers."""

    site: str
    institution: str
    manufacturer: str
    model: str
    modality: str  # "CR" storage phosphor plate, "DX" flat panel
    rows: int
    columns: int
    bits_stored: int
    photometric: str  # "MONOCHROME1": a high value is black
    pixel_low: float  # the part of the stored range that a film fills, as fractions
    pixel_high: float
    dose: float  # photons a pixel in free air, thousands
    scatter: float  # share of the signal that is scattered
    blur: float  # pixels
    edge: float  # strength of edge enhancement
    gamma: float
    rotation: float  # standard deviation of the positioning, degrees
    leads: float  # probability of an ECG lead across the film
    marker: float  # probability of a side marker
    collimation: int  # largest shutter at either side, pixels


EQUIPMENT = {
    "A": Equipment(
        "A", "Children's Hospital A", "Synthetic Imaging", "PlateReader 10", "CR", 224, 224, 10, "MONOCHROME1",
        0.06, 0.93, 36, 0.18, 0.75, 0.0, 1.0, 2.0, 0.0, 0.5, 0,
    ),
    "B": Equipment(
        "B", "District Hospital B, emergency department", "Synthetic Imaging", "Portable DX", "DX", 240, 208, 12, "MONOCHROME2",
        0.10, 0.80, 12, 0.32, 0.55, 0.7, 0.9, 4.0, 0.35, 1.0, 0,
    ),
    "C": Equipment(
        "C", "Rural Hospital C", "Synthetic Imaging", "PlateReader 5", "CR", 208, 240, 12, "MONOCHROME2",
        0.00, 0.60, 7, 0.42, 1.15, 0.2, 1.15, 4.0, 0.0, 1.0, 12,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Exposure:
    """Stored values and the window that displays them.

    stored: uint16 [rows, columns], in [0, 2**bits_stored).
    window_center, window_width: DICOM's LINEAR window (PS3.3 C.11.2.1.2.1) that maps the film's darkest
    value to black and its brightest to white.
    """

    stored: np.ndarray
    window_center: float
    window_width: float


def expose(attenuation: np.ndarray, equipment: Equipment, rng: np.random.Generator) -> Exposure:
    """Take a film of `attenuation` (float32 [224, 224], >= 0) on `equipment`."""
    signal = np.exp(-attenuation * rng.uniform(0.9, 1.1) * 1.25)
    scattered = zoom(gaussian_filter(signal[::4, ::4], 5.5), 4, order=1)
    signal = (1 - equipment.scatter) * signal + equipment.scatter * scattered
    photons = equipment.dose * 1000
    signal = signal + np.sqrt(np.clip(signal, 1e-4, None) / photons) * rng.standard_normal(signal.shape)  # quantum noise
    film = -np.log(np.clip(gaussian_filter(signal, equipment.blur), 1e-4, None))
    if equipment.edge:
        film = film + equipment.edge * (film - gaussian_filter(film, 2.2))
    film = _position(film, equipment, rng)
    low, high = np.percentile(film, [1, 99.5])
    film = np.clip((film - low) / (high - low), 0, 1) ** equipment.gamma * rng.uniform(0.92, 1)
    if rng.random() < equipment.leads:
        film = _draw_lead(film, rng)
    if rng.random() < equipment.marker:
        film = _draw_marker(film, rng)
    if equipment.collimation:
        shutter = int(rng.integers(0, equipment.collimation))
        film[:, :shutter] = film[:, film.shape[1] - shutter :] = 0
    return _store(film, equipment)


def _store(film, equipment: Equipment) -> Exposure:
    top = 2**equipment.bits_stored - 1
    low, high = round(equipment.pixel_low * top), round(equipment.pixel_high * top)
    if equipment.photometric == "MONOCHROME1":
        film = 1 - film
    stored = np.round(low + film * (high - low)).astype(np.uint16)
    # DICOM's LINEAR function reaches its ends at c - 0.5 -+ (w - 1) / 2: solved for c and w.
    return Exposure(stored, (low + high) / 2 + 0.5, high - low + 1)


def _position(film, equipment: Equipment, rng):
    """Rotate, scale and shift the child, and sample onto the detector's own matrix."""
    angle = np.deg2rad(rng.normal(0, equipment.rotation))
    shape = np.array([equipment.rows, equipment.columns])
    scale = (RENDER_SIZE / shape.max()) / rng.normal(1, 0.015 * equipment.rotation)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale
    offset = RENDER_SIZE / 2 - matrix @ (shape / 2) + rng.normal(0, 1.5 * equipment.rotation, 2)
    return affine_transform(film, matrix, offset, output_shape=tuple(shape), order=1, mode="nearest")


def _draw_lead(film, rng):
    rows, columns = film.shape
    y, x = np.mgrid[0:rows, 0:columns] / [[[rows]], [[columns]]] - 0.5
    middle = rng.uniform(-0.1, 0.3)
    curve = middle + 0.25 * np.sin(x * rng.uniform(4, 9) + rng.random() * 6)
    return np.clip(film + 0.25 * np.exp(-(((y - curve) / 0.004) ** 2)), 0, 1)


def _draw_marker(film, rng):
    """A lead letter on the side that it names; seen as on a viewing box, the patient's right is left."""
    letter = "R" if rng.random() < 0.7 else "L"
    glyph = np.kron(np.array([[c == "#" for c in row] for row in _GLYPHS[letter]]), np.ones((2, 2), bool))
    row, margin = 14 + int(rng.integers(0, 25)), 16 + int(rng.integers(0, 10))
    column = margin if letter == "R" else film.shape[1] - margin - glyph.shape[1]
    film[row : row + glyph.shape[0], column : column + glyph.shape[1]][glyph] = 1
    return film
