"""Train one model over many hospitals: the plan, the sites, the rounds, the comparison."""

from .approval import check_task
from .comparison import EVERYWHERE, Comparison, compare, compare_arms, evaluate, pool_sites, predict_sites
from .device import Device, choose_device
from .engine import Federation, federate
from .local import predict, train_locally
from .messages import LocalTraining, RoundTask, SiteMemory
from .plan import TrainingPlan
from .repeat_and_select import Selected, repeat_and_select
from .run import Round, TrainingRun
from .search import SearchResult, search
from .search_record import Trial
from .site import Site, load_sites
from .space import Choice, Integers, LogUniform, Uniform, check_space, space_from_plain

__all__ = [
    "EVERYWHERE", "Choice", "Comparison", "Device", "Federation", "Integers", "LocalTraining", "LogUniform", "Round", "RoundTask",
    "SearchResult", "Selected", "Site", "SiteMemory", "TrainingPlan", "TrainingRun", "Trial", "Uniform", "check_space",
    "check_task", "choose_device", "compare", "compare_arms", "evaluate", "federate", "load_sites", "pool_sites", "predict",
    "predict_sites", "repeat_and_select", "search", "space_from_plain", "train_locally",
]  # fmt: skip
