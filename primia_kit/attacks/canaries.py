"""Canaries for an audit of private training: patients whose gradients point where nobody else's do.

    m  canaries      N  patients and canaries, in or out      q, C, z  sampling rate, clipping norm, noise multiplier

The training audited is `train_privately` of a plan that trains the last layer on fixed features, with its own sampling,
clipping, noise and ledger. Canary i is a patient with one film, whose features are 0 but for the i-th, so that of the weights
its gradient touches those of feature i alone (a "Dirac canary"; Nasr et al. 2023, arXiv 2302.07956), beside the bias. It is
longer than C, so that the clipping is on trial, too. Differential privacy promises to hide any patient, so also these.

The auditor sees all that a hospital's training computes after the noise: the weights W_t and the noised sums G_t of every
step (white box), and it knows the hospital's other patients. So it knows what each canary's clipped gradient u and the
others' mean part R_t would be at W_t, and scores by the likelihood ratio of "in" against "out":

    sum over t of log(1 - q + q exp((<G_t - R_t, u> - |u|^2 / 2) / (z C)^2))

A canary that is out has no film but counts in N, which is public: in or out, q and B stay what they are.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..data import FilmSet, pool_films
from ..errors import KitError
from ..federation.device import CPU
from ..federation.local import model_input
from ..federation.messages import RoundTask, SiteMemory
from ..federation.plan import TrainingPlan
from ..federation.private import SitePrivacy, Units, train_privately
from ..federation.strategies import LOCAL_RULES
from ..federation.trainable import freeze, head_inputs, trained_head
from ..privacy import Ledger, NoiseSource, calibrate
from ..privacy.gradients import HeadGradients
from .audit import AuditResult, judge

LOUDNESS = 10.0  # length of a canary's features, in C


def audit_training(
    plan: TrainingPlan,
    films: FilmSet | None = None,
    *,
    canaries: int = 500,
    start: dict[str, torch.Tensor] | None = None,
    guesses: tuple[int, int] | None = None,
    source: NoiseSource | None = None,
) -> AuditResult:
    """Train one hospital by `plan` with canaries among its patients, and guess which were in.

    1. Each canary's coin is thrown, by the operating system.
    2. All rounds of the plan are trained, by `train_privately`, on the hospital's films and the canaries that are in.
    3. The auditor scores, guesses, and bounds epsilon from below (see `audit`); the ledger says what was claimed.

    The model is spoilt by its canaries and thrown away. A learning rate doesn't enter the promise, but a large one teaches
    the network its canaries, whose gradients then fade: audits prove more at a small one.

    Args:
        plan: private, by patients, with fixed clipping; its last layer alone is trained, on at least `canaries` features.
        films: the hospital's own; None: a hospital of canaries alone, among which nothing else hides them.
        start: weights, if the plan names some. guesses: (k+, k-), see `judge`.
        source: of samples and noise; one that adds none is what an audit should catch.

    Raises: KitError for a plan that this audit isn't for.
    """
    _check(plan)
    spec = plan.model_spec(plan.pixel_mean, plan.pixel_std)
    network = freeze(spec.build(plan.seed) if start is None else spec.build_with(start), plan)
    head = trained_head(network, plan)
    if head is None:
        raise KitError('The audit is for plans that train the last layer alone: set frozen=("body",) and augmentation="none".')
    if not 0 < canaries <= head.in_features:
        raise KitError(f"{canaries} canaries need a feature each, and {plan.architecture} has {head.in_features}.")

    included = np.unpackbits(np.frombuffer(os.urandom(-(-canaries // 8)), np.uint8))[:canaries].astype(bool)
    auditor = _Auditor(head, canaries, LOUDNESS * plan.clipping_norm)
    everyone, out = _hospital(films, auditor.labels, included, plan)
    memory = SiteMemory(units=Units(everyone, plan.privacy, absent=out), features=auditor.features[torch.from_numpy(included)])
    n = len(memory.units)
    q, steps = plan.sampling_rate(n), plan.private_steps(n)
    z = plan.noise_multiplier or calibrate(plan.target_epsilon, plan.delta, q, plan.rounds * steps)
    auditor.expect(q, plan.clipping_norm, z, n)
    if films is not None:
        features = head_inputs(network, films, spec, model_input, CPU)
        memory.features = torch.cat([features, memory.features])
        auditor.others = HeadGradients(features, films.labels, memory.units.owners[: len(films)] - len(out))

    weights = {name: value.clone() for name, value in network.state_dict().items()}
    with tempfile.TemporaryDirectory(prefix="primia-audit-") as folder:
        ledger = Ledger.create(Path(folder) / "ledger", site="audit", delta=plan.delta, budget=None, patients=n)
        memory.privacy = SitePrivacy(ledger, z, source or NoiseSource())
        for number in range(1, plan.rounds + 1):
            task = RoundTask(plan, spec, number, weights)
            rule = LOCAL_RULES[plan.strategy](task, memory, network)
            rule.adjust_gradients = auditor.listening(rule.adjust_gradients)
            train_privately(network, everyone, task, site="audit", rule=rule, memory=memory, features=memory.features)
            weights = {name: value.clone() for name, value in network.state_dict().items()}
        claimed = ledger.epsilon()
    return judge(auditor.scores.numpy(), included, plan.delta, claimed, guesses=guesses)


def _hospital(films: FilmSet | None, labels: torch.Tensor, included: np.ndarray, plan: TrainingPlan) -> tuple[FilmSet, list[str]]:
    """The hospital's films and, blank, those of the canaries that are in; the names of those that are out."""
    inside, out = ([f"canary {i}" for i in np.flatnonzero(which)] for which in (included, ~included))
    blank = torch.zeros(len(inside), 1, plan.size, plan.size)
    canaries = FilmSet(blank, labels[torch.from_numpy(included)], tuple(inside), plan.classes, plan.geometry)
    return canaries if films is None else pool_films([films, canaries]), out


class _Auditor:
    """Hears every step's weights and noised sum, and keeps each canary's score.

    features: float32 [m, features]. labels: int64 [m], of the canaries, in or out. scores: float64 [m].
    others: the hospital's own patients' gradients; None if it has none.
    """

    others: HeadGradients | None = None

    def __init__(self, head: torch.nn.Linear, canaries: int, length: float):
        self.head, self.length = head, length
        self.features = length * torch.eye(canaries, head.in_features)
        self.labels = torch.arange(canaries) % head.out_features
        self.scores = torch.zeros(canaries, dtype=torch.float64)

    def expect(self, q: float, clipping_norm: float, noise_multiplier: float, patients: int) -> None:
        self.q, self.clipping_norm = q, clipping_norm
        self.deviation, self.expected = noise_multiplier * clipping_norm, q * patients

    def listening(self, adjust_gradients):
        """The rule's own adjustment, before which the gradient is the noised sum / B."""

        def heard() -> None:
            self._hear()
            adjust_gradients()

        return heard

    @torch.no_grad()
    def _hear(self) -> None:
        m, bias = len(self.labels), self.head.bias
        columns = self.head.weight[:, :m].T.double() * self.length  # [m, classes]: what the canary's feature adds to its logits
        logits = columns if bias is None else columns + bias.double()
        errors = logits.softmax(1) - F.one_hot(self.labels, self.head.out_features)
        norms = errors.norm(dim=1) * (self.length**2 + (bias is not None)) ** 0.5
        factors = (self.clipping_norm / norms.clamp(min=1e-300)).clamp(max=1)
        heard = {name: self.expected * parameter.grad for name, parameter in self.head.named_parameters()}
        if self.others is not None:
            everybody = torch.ones(len(self.others.films), dtype=torch.bool)
            known = self.others(self.head, everybody, self.clipping_norm).sums
            heard = {name: value - self.q * known[name] for name, value in heard.items()}
        sums = heard["weight"][:, :m].T.double() * self.length + (0 if bias is None else heard["bias"].double())
        along, square = factors * (errors * sums).sum(1), (factors * norms).square()
        ratio = (along - square / 2) / self.deviation**2
        if self.q < 1:
            ratio = torch.logaddexp(torch.log1p(torch.tensor(-self.q)).double(), ratio + np.log(self.q))
        self.scores += ratio


def _check(plan: TrainingPlan) -> None:
    for holds, sentence in (
        (plan.privacy == "patient", f'privacy is "{plan.privacy}": the audit is of privacy="patient".'),
        (plan.clipping == "fixed", f'clipping is "{plan.clipping}": the audit\'s canaries are for clipping="fixed".'),
        (plan.pixel_statistics == "public", 'The audit trains one hospital alone: set pixel_statistics="public".'),
        (plan.class_weights == "none", 'The audit trains one hospital alone: set class_weights="none".'),
        (
            plan.strategy in ("fedavg", "fedprox", "fedadam", "fedyogi"),
            f'The audit has no server for strategy "{plan.strategy}".',
        ),
    ):
        if not holds:
            raise KitError(sentence)
