"""Train one model over many hospitals: the plan, the sites, the rounds, the comparison."""

from .comparison import EVERYWHERE, Comparison, compare, compare_arms, evaluate, pool_sites, predict_sites
from .engine import Federation, Round, TrainingRun, federate
from .local import LocalTraining, predict, train_locally
from .plan import TrainingPlan
from .site import Site, load_sites

__all__ = [
    "EVERYWHERE", "Comparison", "Federation", "LocalTraining", "Round", "Site", "TrainingPlan", "TrainingRun",
    "compare", "compare_arms", "evaluate", "federate", "load_sites", "pool_sites", "predict", "predict_sites", "train_locally",
]  # fmt: skip
