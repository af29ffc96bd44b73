"""Train one model over many hospitals: the plan, the sites, the rounds, the comparison."""

from .approval import check_task
from .comparison import EVERYWHERE, Comparison, compare, compare_arms, evaluate, pool_sites, predict_sites
from .device import Device, choose_device
from .engine import Federation, federate
from .local import predict, train_locally
from .messages import LocalTraining, RoundTask, SiteMemory
from .plan import TrainingPlan
from .run import Round, TrainingRun
from .site import Site, load_sites

__all__ = [
    "EVERYWHERE", "Comparison", "Device", "Federation", "LocalTraining", "Round", "RoundTask", "Site", "SiteMemory",
    "TrainingPlan", "TrainingRun", "check_task", "choose_device", "compare", "compare_arms", "evaluate", "federate", "load_sites",
    "pool_sites", "predict", "predict_sites", "train_locally",
]  # fmt: skip
