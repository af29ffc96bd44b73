"""What an adversary can do with what leaves a hospital."""

from .audit import AuditResult, epsilon_lower_bound, judge
from .canaries import audit_training
from .defences import ATTACKS, DEFENCES, Defence, Trial, attack_results, attack_table, release, run_attacks
from .imprint import Imprint, Imprinted, ImprintSpec, bin_edges, brightness, imprint_weights, read_imprint
from .inversion import Inversion, Reconstruction, film_gradient, infer_labels, invert_gradient, invert_update
from .linkage import Linkage, link_films, linkage_table, returning_patients
from .membership import MembershipGame, MembershipResult, membership_table
from .noisy_imprint import NoisyImprinted, read_noisy_imprint
from .reference_models import confidence, split_patients, train_game
from .similarity import Similarity, compare_films, psnr, ssim

__all__ = [
    "ATTACKS",
    "DEFENCES",
    "AuditResult",
    "Defence",
    "Imprint",
    "ImprintSpec",
    "Imprinted",
    "Inversion",
    "Linkage",
    "MembershipGame",
    "MembershipResult",
    "NoisyImprinted",
    "Reconstruction",
    "Similarity",
    "Trial",
    "attack_results",
    "attack_table",
    "audit_training",
    "bin_edges",
    "brightness",
    "compare_films",
    "confidence",
    "epsilon_lower_bound",
    "film_gradient",
    "imprint_weights",
    "infer_labels",
    "invert_gradient",
    "invert_update",
    "judge",
    "link_films",
    "linkage_table",
    "membership_table",
    "psnr",
    "read_imprint",
    "read_noisy_imprint",
    "release",
    "returning_patients",
    "run_attacks",
    "split_patients",
    "ssim",
    "train_game",
]  # fmt: skip
