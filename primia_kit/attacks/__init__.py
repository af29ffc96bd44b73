"""What an adversary can do with what leaves a hospital."""

from .linkage import Linkage, link_films, linkage_table, returning_patients
from .membership import MembershipGame, MembershipResult, membership_table
from .reference_models import confidence, split_patients, train_game

__all__ = [
    "Linkage", "MembershipGame", "MembershipResult", "confidence", "link_films", "linkage_table", "membership_table",
    "returning_patients", "split_patients", "train_game",
]  # fmt: skip
