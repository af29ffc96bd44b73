"""What an adversary can do with what leaves a hospital."""

from .defences import ATTACKS, DEFENCES, Defence, Trial, attack_results, attack_table, release, run_attacks
from .imprint import Imprint, Imprinted, ImprintSpec, bin_edges, brightness, imprint_weights, read_imprint
from .inversion import Inversion, Reconstruction, film_gradient, infer_labels, invert_gradient, invert_update
from .linkage import Linkage, link_films, linkage_table, returning_patients
from .similarity import Similarity, compare_films, psnr, ssim

__all__ = [
    "ATTACKS", "DEFENCES", "Defence", "Imprint", "ImprintSpec", "Imprinted", "Inversion", "Linkage", "Reconstruction",
    "Similarity", "Trial", "attack_results", "attack_table", "bin_edges", "brightness", "compare_films", "film_gradient",
    "imprint_weights", "infer_labels", "invert_gradient", "invert_update", "link_films", "linkage_table", "psnr",
    "read_imprint", "release", "returning_patients", "run_attacks", "ssim",
]  # fmt: skip
