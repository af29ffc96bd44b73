"""How good a model is, and how sure one can be of it with the patients there are."""

from .bootstrap import ALL, OWN, Difference, Interval, PatientBootstrap, difference, intervals, mcnemar
from .calibration import ReliabilityCurve, accuracy_by_bin, expected_calibration_error, reliability_curve
from .metrics import confusion
from .predictions import Predictions, join
from .roc import hits_at, roc_curve
from .scores import HEADLINE, METRICS, Scores, metric_named, score, scores

__all__ = [
    "ALL", "HEADLINE", "METRICS", "OWN", "Difference", "Interval", "PatientBootstrap", "Predictions", "ReliabilityCurve",
    "Scores", "accuracy_by_bin", "confusion", "difference", "expected_calibration_error", "hits_at", "intervals", "join",
    "mcnemar", "metric_named", "reliability_curve", "roc_curve", "score", "scores",
]  # fmt: skip
