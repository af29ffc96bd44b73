"""Which plan a search tries next, and which trial isn't worth going on with: Optuna, fed from what has been found.

Each trial's study is made anew from the finished ones, with a sampler seeded by (plan.seed, trial). So what a trial proposes
depends on these alone, and a search that was stopped goes on as an unbroken one would have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import KitError, nearest
from ..seeds import derive_seed
from .plan import TrainingPlan
from .search_record import COMPLETE, FAILED, PRUNED, Trial
from .space import Space, distributions

if TYPE_CHECKING:
    from optuna import Study
    from optuna import Trial as OptunaTrial
    from optuna.pruners import BasePruner

SAMPLERS = ("tpe", "random")
PRUNERS = ("none", "median")
UNPRUNED = 4  # trials that are finished before the median pruner compares


def check_choice(name: str, value: str, known: Sequence[str]) -> None:
    """Raises: KitError for a value that isn't one of these."""
    if value not in known:
        raise KitError(f"{name} is {value!r}{nearest(str(value), known)}; it must be one of {', '.join(known)}.")


def propose(
    plan: TrainingPlan, space: Space, finished: Sequence[Trial], *, sampler: str, pruning: str = "none",
    values: Mapping[str, Any] | None = None,
) -> OptunaTrial:  # fmt: skip
    """Optuna's next trial, with `params` drawn.

    Args:
        sampler: "tpe" (Bergstra et al. 2011), which goes by the scores so far, or "random", which doesn't.
        pruning: see `search`.
        values: what the trial tries, if it had begun before.
    """
    from optuna.samplers import RandomSampler, TPESampler

    seed = derive_seed(plan.seed, "search", len(finished)) % 2**32
    study = study_of(space, finished, _pruner(plan, pruning))
    study.sampler = TPESampler(seed=seed) if sampler == "tpe" else RandomSampler(seed=seed)
    if values is not None:
        study.enqueue_trial(dict(values))
    return study.ask(distributions(space))


def random_values(space: Space, seed: int) -> dict[str, Any]:
    """Values drawn uniformly (of a logarithmic range, by the logarithm)."""
    from optuna.samplers import RandomSampler

    study = study_of(space, ())
    study.sampler = RandomSampler(seed=seed)
    return study.ask(distributions(space)).params


def study_of(space: Space, finished: Sequence[Trial], pruner: BasePruner | None = None) -> Study:
    """The finished trials as an Optuna study in memory, for its samplers, pruners and pictures."""
    import optuna
    from optuna.trial import TrialState, create_trial

    # Failed ones are pruned ones without a score: the sampler takes them for the worst, where it would overlook failed ones
    # and go on proposing a learning rate at which training diverges.
    states = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.PRUNED}
    with _quiet():
        study = optuna.create_study(direction="maximize", pruner=pruner or optuna.pruners.NopPruner())
    for trial in finished:
        study.add_trial(
            create_trial(
                state=states[trial.state],
                value=trial.score if trial.state == COMPLETE else None,
                params=trial.values,
                distributions=distributions(space),
                intermediate_values=trial.scores,
            )
        )
    return study


def _pruner(plan: TrainingPlan, pruning: str) -> BasePruner | None:
    """Only pruners that go by the scores alone: others keep notes in a study (successive halving its rungs), and ours is new
    for each trial."""
    from optuna.pruners import MedianPruner

    return MedianPruner(UNPRUNED, n_warmup_steps=plan.rounds // 3) if pruning == "median" else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's word on stderr for every study."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)
