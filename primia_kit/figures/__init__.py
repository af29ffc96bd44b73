"""Every picture of the kit: functions from results to a matplotlib `Figure`. `style` has what they share."""

from .evaluation import gain_by_site
from .films import contact_sheet, who_has_what
from .flow import overview, what_moves
from .style import BLUE, GRAY, GREEN, ORANGE, PALETTE, PURPLE, RED
from .sweeps import sweep_results
from .training import learning_curves

__all__ = [
    "BLUE", "GRAY", "GREEN", "ORANGE", "PALETTE", "PURPLE", "RED",
    "contact_sheet", "gain_by_site", "learning_curves", "overview", "sweep_results", "what_moves", "who_has_what",
]  # fmt: skip
