"""A procedural child's chest: from a label to an X-ray attenuation map.

X-rays fade with the length of tissue that they cross (Beer-Lambert), so a chest is drawn as path
lengths: ellipsoid chords for trunk, heart and thymus, air for the lungs, thin bright structures for
ribs and vessels. A finding replaces air by fluid:

- *bacterial*: consolidation of a lobe or segment, bounded by its fissure, with air bronchograms;
- *viral*: perihilar interstitial haze on both sides, cuffed bronchi, patchy atelectasis, and
  hyperinflation that pushes the diaphragms down and flat.

The films are synthetic. On real films nobody can separate viral from bacterial pneumonia with
certainty; here the severity is drawn so that mild cases of both overlap with normal chests.

Coordinates: x runs from -0.5 (image left, the patient's right) to 0.5, y from -0.5 (top) down to 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter

RENDER_SIZE = 224
LABELS = ("normal", "bacterial", "viral")


@dataclass(frozen=True)
class Child:
    """What all films of one child share; lengths are fractions of the film's width."""

    age_years: int
    midline: float  # from the spine to a lung's inner border
    lung_width: float
    apex: float
    diaphragm: float
    dome: float  # height of the diaphragm's dome
    rib_spacing: float
    rib_contrast: float
    heart_x: float
    heart_width: float
    heart_height: float
    thymus: float  # thickness; 0 in a child whose thymus doesn't show
    thymus_width: float
    trunk_width: float


def draw_child(rng: np.random.Generator) -> Child:
    """A child of 1 to 5 years, the ages of the Kermany study."""
    age = int(rng.integers(1, 6))
    return Child(
        age_years=age,
        midline=rng.normal(0.062, 0.006),
        lung_width=rng.normal(0.245, 0.018),
        apex=rng.normal(-0.33, 0.02),
        diaphragm=rng.normal(0.235, 0.03),
        dome=rng.normal(0.075, 0.012),
        rib_spacing=rng.normal(0.058, 0.003),
        rib_contrast=rng.normal(0.20, 0.03),
        heart_x=0.045 + rng.normal(0, 0.008),
        heart_width=rng.normal(0.125, 0.012),
        heart_height=rng.normal(0.155, 0.014),
        thymus=rng.uniform(0.1, 0.8) if rng.random() < 0.9 - 0.15 * age else 0.0,
        thymus_width=rng.uniform(0.06, 0.10),
        trunk_width=rng.normal(0.44, 0.02),
    )


@dataclass(frozen=True)
class Chest:
    """A rendered chest.

    attenuation: float32 [224, 224], the line integral of attenuation, dimensionless, >= 0.
    opacity: float32 [224, 224] in [0, 1], the share of the lung's air that the finding displaced.
    """

    attenuation: np.ndarray
    opacity: np.ndarray


def render_chest(child: Child, label: str, rng: np.random.Generator) -> Chest:
    """One frontal chest of `child` with the finding `label` ("normal", "bacterial" or "viral")."""
    x, y = _grid()
    severity = rng.beta(2.8, 1.7)
    diaphragm, dome = child.diaphragm, child.dome
    if label == "viral":  # air trapping: low, flat diaphragms
        diaphragm += 0.028 * severity * rng.uniform(0.2, 1.3)
        dome *= 1 - 0.35 * severity
    diaphragm = min(diaphragm, 0.34)
    tilt = rng.normal(0, 0.035)
    x = x - tilt * y  # a child that doesn't sit straight

    right = _lung(child, x, y, -1, diaphragm, dome)
    left = _lung(child, x, y, +1, diaphragm, dome)
    hila = {-1: (-child.midline - 0.012, -0.03), +1: (child.midline + 0.02, -0.045)}

    soft, heart_mask, thymus = _soft_tissue(child, x, y, diaphragm, rng)
    bones = _skeleton(child, x, y, rng)
    vessels = sum(_branching(rng, hila[lung.side], lung.side) * lung.mask for lung in (right, left))
    opacity = np.zeros_like(x)
    if label == "bacterial":
        opacity = _consolidation((right, left), hila, severity, rng)
    elif label == "viral":
        opacity, perihilar = _interstitial((right, left), hila, x, y, severity, rng)
        vessels = vessels * (1 + 0.9 * severity * perihilar)
    elif rng.random() < 0.25:  # a normal film in expiration looks crowded: a confounder on purpose
        vessels = vessels * rng.uniform(1.1, 1.5)
    opacity = np.clip(opacity, 0, 0.97)

    air = (right.air + left.air) * (1 - opacity) * (1 - 0.72 * heart_mask) * (1 - 0.45 * np.clip(thymus, 0, 1))
    stomach = (rng.random() < 0.6) * _chord(
        ((x - 0.15) / rng.uniform(0.035, 0.07)) ** 2 + ((y - diaphragm - rng.uniform(0.05, 0.08)) / 0.035) ** 2
    )
    liver = 0.18 * _logistic((y - diaphragm + 0.03) * 60)
    texture = (right.mask + left.mask) * 0.035 * _fractal(rng, 2.6)
    attenuation = 1.55 * soft + liver - 1.02 * air - 0.55 * stomach + bones + texture
    attenuation += 0.34 * vessels * np.clip(1 - opacity, 0.1, 1)
    return Chest(np.clip(attenuation, 0, None).astype(np.float32), opacity.astype(np.float32))


@dataclass(frozen=True)
class _Lung:
    side: int  # -1 the patient's right (image left), +1 the left
    mask: np.ndarray
    lateral: np.ndarray  # 0 at the mediastinum .. 1 at the chest wall
    height: np.ndarray  # 0 at the apex .. 1 at the diaphragm
    air: np.ndarray  # path length through air


def _lung(child: Child, x, y, side: int, diaphragm: float, dome: float) -> _Lung:
    out = x * side
    floor = diaphragm + 0.015 * side  # the liver lifts the right diaphragm
    height = (y - child.apex) / (floor - child.apex)
    wall = child.midline + child.lung_width * np.sqrt(np.clip(np.minimum(height, 1) * 1.55, 0, 1)) * (0.93 + 0.10 * height)
    inner = child.midline * 0.38 + 0.012 * (1 - height)
    lateral = np.clip((out - inner) / np.maximum(wall - inner, 0.03), 0, 1)
    lower = floor - dome * np.sin(lateral * np.pi) + 0.055 * lateral**3
    mask = (
        _logistic((wall - out) * 110)
        * _logistic((out - inner) * 110)
        * _logistic((y - child.apex) * 90)
        * _logistic((lower - y) * 110)
    )
    depth = np.sqrt(np.clip(np.sin(np.clip(lateral, 0.03, 0.97) * np.pi), 0, 1)) * np.clip(0.55 + 0.5 * height, 0.4, 1.05)
    return _Lung(side, mask, lateral, height, mask * depth)


def _soft_tissue(child: Child, x, y, diaphragm: float, rng):
    trunk = _chord((x / child.trunk_width) ** 2) * _logistic((y + 0.42) * 40)
    neck = 0.75 * _chord((x / 0.11) ** 2) * _logistic((-0.30 - y) * 40)
    arms = sum(
        0.45 * _chord(((x - side * (0.40 + 0.18 * (y + 0.1))) / 0.09) ** 2) * _logistic((y + 0.40) * 30) for side in (-1, 1)
    )
    body = np.maximum(np.maximum(trunk, neck), arms) * (1 + 0.05 * _fractal(rng, 3))
    dx, dy = x - child.heart_x, y - (diaphragm - 0.105)
    cos, sin = np.cos(0.55), np.sin(0.55)
    radius2 = ((dx * cos - dy * sin) / child.heart_width) ** 2 + ((dx * sin + dy * cos) / child.heart_height) ** 2
    heart, heart_mask = _chord(radius2), _logistic((1 - radius2) * 9)
    thymus = child.thymus * _chord(((x + 0.005) / child.thymus_width) ** 2 + ((y + 0.17) / 0.10) ** 2)
    mediastinum = 0.22 * np.exp(-((x / 0.055) ** 2)) * _logistic((y + 0.30) * 30)
    trachea = np.exp(-((x / 0.011) ** 2)) * _logistic((-0.10 - y) * 60)
    soft = 0.95 * body + 0.10 * heart + 0.08 * thymus + mediastinum - 0.10 * trachea
    return soft, heart_mask, thymus


def _skeleton(child: Child, x, y, rng):
    out = np.abs(x)
    reach = child.midline + child.lung_width * 1.08
    s = np.clip(out / reach, 0, 1.05)
    bones = 0.30 * (0.55 + 0.12 * np.cos(2 * np.pi * (y + rng.random()) / 0.052)) * np.exp(-((x / 0.034) ** 4))  # spine

    def band(centre, width):
        return np.exp(-(((y - centre) / width) ** 2))

    for rib in range(10):
        root = child.apex - 0.035 + rib * child.rib_spacing
        posterior = root + 0.10 * s**2 * (1 + 0.03 * rib) - 0.02 * np.sin(s * np.pi)
        extent = _logistic((reach * (1.0 if rib else 0.8) - out) * 70) * _logistic((out - 0.035) * 60)
        width = 0.0095 + 0.0006 * rib
        cortex = band(posterior - width, 0.003) + band(posterior + width, 0.003)
        bones += child.rib_contrast * extent * (0.75 * band(posterior, width) + 0.35 * cortex)
        if rib < 6:
            anterior = root + 0.165 + 0.17 * np.clip(1 - s, 0, 1) ** 1.2
            bones += 0.45 * child.rib_contrast * extent * _logistic((s - 0.42) * 18) * band(anterior, width)
    for side in (-1, 1):
        o = side * x
        clavicle = -0.295 - 0.10 * o + 0.05 * np.sin(o * 9)
        bones += 0.28 * band(clavicle, 0.011) * _logistic((o - 0.03) * 80) * _logistic((0.30 - o) * 60)
        scapula = np.exp(-(((o - 0.30) / 0.05) ** 2)) * _logistic((y + 0.27) * 30) * _logistic((0.02 - y) * 30)
        bones += 0.12 * _logistic((o - 0.26) * 60) * scapula
    return bones


def _consolidation(lungs, hila, severity: float, rng):
    """Air replaced by pus in one or two zones: upper, middle or lower lobe, or a round focus."""
    opacity = np.zeros((RENDER_SIZE, RENDER_SIZE), np.float32)
    for _ in range(1 if rng.random() < 0.72 else 2):
        lung = lungs[0] if rng.random() < 0.58 else lungs[1]
        zone = ("upper", "middle", "lower", "round")[rng.choice(4, p=[0.27, 0.18, 0.38, 0.17])]
        fissure = 0.42 + 0.10 * (1 - lung.lateral)
        sharp = 45 if lung.side < 0 else 12  # only the right lung has a horizontal fissure
        bound = {
            "upper": _logistic((fissure - lung.height) * sharp),
            "middle": _logistic((lung.height - fissure) * 45) * _logistic((0.62 - lung.lateral) * 12),
            "lower": _logistic((lung.height - fissure - 0.12) * 14),
            "round": 1.0,
        }[zone]
        at = {"upper": 0.22, "middle": 0.68, "lower": 0.78, "round": rng.uniform(0.3, 0.75)}[zone]
        radius = 0.12 + 0.12 * severity if zone == "round" else 0.16 + 0.30 * severity
        distance = np.hypot((lung.lateral - rng.uniform(0.25, 0.75)) * 0.8, lung.height - at)
        focus = lung.mask * bound * _logistic(((radius - distance) * 9 + 0.9 * _fractal(rng, 3.2)) * 2.6)
        bronchi = gaussian_filter((_branching(rng, hila[lung.side], lung.side) > 0.25).astype(np.float32), 0.7)
        focus = focus * (1 - 0.30 * np.clip(bronchi, 0, 1))  # air bronchograms
        opacity = np.maximum(opacity, focus * (0.32 + 0.62 * severity))
    if rng.random() < 0.18:  # a little effusion blunts the costophrenic angle
        lung = lungs[int(rng.integers(2))]
        opacity = np.maximum(opacity, 0.8 * lung.mask * _logistic((lung.height + 0.25 * lung.lateral**2 - 1.02) * 25))
    return opacity


def _interstitial(lungs, hila, x, y, severity: float, rng):
    """Bilateral perihilar haze; returns it and the perihilar weight that also thickens vessels."""
    mask = lungs[0].mask + lungs[1].mask
    distance = np.minimum(*[np.hypot(x - hx, (y - hy) * 0.75) for hx, hy in hila.values()])
    perihilar = np.exp(-((distance / (0.13 + 0.06 * severity)) ** 1.5)) + 0.30
    reticular = np.clip(1 - np.abs(_fractal(rng, 2.0, lowest=0.03)) * 1.5, 0, 1) ** 2
    opacity = mask * perihilar * severity * (0.26 * reticular + 0.11 + 0.07 * np.clip(_fractal(rng, 3), -1, 2))
    for _ in range(int(2 + 7 * severity)):  # cuffed bronchi seen end-on
        hx, hy = hila[int(rng.choice([-1, 1]))]
        ring = np.hypot(x - hx - rng.normal(0, 0.05), y - hy - rng.normal(0, 0.06)) - rng.uniform(0.006, 0.011)
        opacity += 0.16 * severity * np.exp(-((ring / 0.0035) ** 2))
    if rng.random() < 0.35 * severity + 0.1:  # a plate of atelectasis
        angle, cx, cy = rng.normal(0, 0.5), rng.choice([-1, 1]) * rng.uniform(0.10, 0.2), rng.uniform(0.02, 0.2)
        across = (x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
        along = (x - cx) * np.cos(angle) - (y - cy) * np.sin(angle)
        opacity += 0.35 * np.exp(-((across / 0.007) ** 2) - (along / 0.06) ** 2) * mask
    return opacity, perihilar


def _branching(rng, hilum: tuple[float, float], side: int, trunks: int = 7):
    """A vessel (or bronchial) tree: random walks that fork four times on their way from the hilum."""
    n, steps = RENDER_SIZE, 13
    bands = np.zeros((3, n * n), np.float32)  # wide, medium, thin: each blurred to its width
    px, py = np.full(trunks, hilum[0]), np.full(trunks, hilum[1])
    angle = np.pi / 2 * (1 - side) + rng.uniform(-1.25, 1.25, trunks)
    width = rng.uniform(0.7, 1.1, trunks)
    for _ in range(4):
        turns = angle[:, None] + np.cumsum(rng.normal(0, 0.09, (len(px), steps)), 1)
        wx = px[:, None] + np.cumsum(np.cos(turns), 1) * 1.6 / n
        wy = py[:, None] + np.cumsum(np.sin(turns), 1) * 1.6 / n
        row, col = ((wy + 0.5) * n).astype(int), ((wx + 0.5) * n).astype(int)
        inside = (row > 0) & (row < n) & (col > 0) & (col < n)
        weight = np.broadcast_to(width[:, None], row.shape)
        band = np.where(weight > 0.6, 0, np.where(weight > 0.35, 1, 2))
        np.add.at(bands, (band[inside], (row * n + col)[inside]), weight[inside])
        fork = np.tile([-1, 1], len(px)) * rng.uniform(0.2, 0.55, 2 * len(px))
        px, py = np.repeat(wx[:, -1], 2), np.repeat(wy[:, -1], 2)
        angle = np.repeat(turns[:, -1], 2) + fork
        width = np.repeat(width, 2) * rng.uniform(0.62, 0.8, len(px))
        keep = width > 0.2
        px, py, angle, width = px[keep], py[keep], angle[keep], width[keep]
        if not len(px):
            break
    bands = bands.reshape(3, n, n)
    return sum(gaussian_filter(b, s, truncate=3) * g for b, s, g in zip(bands, (1.5, 1.0, 0.7), (2.2, 1.5, 1.0), strict=True))


@lru_cache(maxsize=1)
def _grid():
    y, x = np.mgrid[0:RENDER_SIZE, 0:RENDER_SIZE].astype(np.float32) / RENDER_SIZE - 0.5
    return x, y


@lru_cache(maxsize=1)
def _frequency():
    n = RENDER_SIZE
    radius = np.sqrt(np.fft.fftfreq(n)[:, None] ** 2 + np.fft.rfftfreq(n)[None] ** 2)
    radius[0, 0] = 1
    return radius


def _fractal(rng, beta: float, lowest: float = 0.0):
    """A random field with power spectrum 1/f^beta above `lowest` cycles a pixel, unit variance."""
    n, radius = RENDER_SIZE, _frequency()
    noise = rng.standard_normal((n, n // 2 + 1)) + 1j * rng.standard_normal((n, n // 2 + 1))
    spectrum = noise * np.where(radius < lowest, 0, radius ** (-beta / 2))
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, (n, n))
    return ((field - field.mean()) / field.std()).astype(np.float32)


def _logistic(z):
    return 1 / (1 + np.exp(-np.clip(z, -30, 30)))


def _chord(radius2):
    """Path length through a unit ellipsoid at squared normalised radius `radius2`."""
    return np.sqrt(np.clip(1 - radius2, 0, None))
