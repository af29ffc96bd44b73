"""Train one model over many hospitals: the plan, the sites, the rounds, the comparison."""

from .comparison import EVERYWHERE, Comparison, compare, evaluate, pool_sites
from .engine import Federation, Round, TrainingRun, federate
from .local import LocalTraining, predict, train_locally
from .plan import TrainingPlan
from .site import Site, load_sites

__all__ = [
    "EVERYWHERE", "Comparison", "Federation", "LocalTraining", "Round", "Site", "TrainingPlan", "TrainingRun",
    "compare", "evaluate", "federate", "load_sites", "pool_sites", "predict", "train_locally",
]  # fmt: skip
