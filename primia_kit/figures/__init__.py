"""Every picture of the kit: functions from results to a matplotlib `Figure`. `style` has what they share."""

from .attacks import imprint_bins, inversion_losses, reconstructions
from .epsilon import attackers_limits, shuffled_batches, two_worlds
from .evaluation import (
    confusion_matrices,
    gain_by_site,
    paired_differences,
    reliability_diagram,
    roc_curves,
    site_by_strategy,
)
from .films import contact_sheet, who_has_what
from .flow import overview, what_moves
from .membership import audit_beside_ledger, membership_roc
from .mpc import agreement, fixed_point_wrap, layer_costs, opened_values, relu_of_shares, ring_pictures, truncation_errors
from .pixels import exposures, film_steps, linked_films, side_by_side
from .privacy import epsilon_over_rounds, epsilon_utility, gradient_norms, noised_sums, sum_changes
from .search import search_scores
from .secagg import clear_and_masked, two_shares_make_a_line
from .style import BLUE, GRAY, GREEN, ORANGE, PALETTE, PURPLE, RED
from .sweeps import sweep_results
from .training import learning_curves

__all__ = [
    "BLUE", "GRAY", "GREEN", "ORANGE", "PALETTE", "PURPLE", "RED", "agreement", "attackers_limits", "audit_beside_ledger",
    "clear_and_masked", "confusion_matrices", "contact_sheet", "epsilon_over_rounds", "epsilon_utility", "exposures",
    "film_steps", "fixed_point_wrap", "gain_by_site", "gradient_norms", "imprint_bins", "inversion_losses", "layer_costs",
    "learning_curves", "linked_films", "membership_roc", "noised_sums", "opened_values", "overview", "paired_differences",
    "reconstructions", "reliability_diagram", "relu_of_shares", "ring_pictures", "roc_curves", "search_scores",
    "shuffled_batches", "side_by_side", "site_by_strategy", "sum_changes", "sweep_results", "truncation_errors",
    "two_shares_make_a_line", "two_worlds", "what_moves", "who_has_what",
]  # fmt: skip
