"""What an adversary can do with what leaves a hospital."""

from .audit import AuditResult, epsilon_lower_bound, judge
from .canaries import audit_training
from .linkage import Linkage, link_films, linkage_table, returning_patients
from .membership import MembershipGame, MembershipResult, membership_table
from .reference_models import confidence, split_patients, train_game

__all__ = [
    "AuditResult", "Linkage", "MembershipGame", "MembershipResult", "audit_training", "confidence", "epsilon_lower_bound",
    "judge", "link_films", "linkage_table", "membership_table", "returning_patients", "split_patients", "train_game",
]  # fmt: skip
