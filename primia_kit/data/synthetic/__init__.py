"""Procedural chest films of three classes at three hospitals with different equipment."""

from .anatomy import LABELS, Chest, Child, draw_child, render_chest
from .equipment import EQUIPMENT, Equipment, Exposure, expose
from .hospitals import synthetic_hospitals

__all__ = [
    "EQUIPMENT",
    "LABELS",
    "Chest",
    "Child",
    "Equipment",
    "Exposure",
    "draw_child",
    "expose",
    "render_chest",
    "synthetic_hospitals",
]
