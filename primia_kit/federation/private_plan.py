"""What a plan must be, so that everything in it that looks at films is charged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import KitError

if TYPE_CHECKING:
    from .plan import TrainingPlan

PRIVATE_KEYS = (
    "target_epsilon", "noise_multiplier", "delta", "clipping_norm", "clipping", "clipping_quantile", "virtual_batch",
    "augmentation_multiplicity", "statistics_noise", "noise", "colluders",
)  # fmt: skip


def statistics(plan: TrainingPlan) -> list[str]:
    """The sums about private films that the plan asks for before training, by key and value; each is charged once."""
    asked = {"pixel_statistics": "private", "class_weights": "balanced", "feature_norm": "l2_centred"}
    return [f'{key} "{value}"' for key, value in asked.items() if getattr(plan, key) == value]


def check_privacy(plan: TrainingPlan) -> None:
    """Refuse what differential privacy doesn't cover in this kit.

    Allowed as they are: FedProx (its pull is added after the noise), SCAFFOLD's option II (c_i is a mean of noised
    gradients), FedAdam and FedYogi (they see the sums of what the sites send), momentum, weight decay and `ema`: all
    are functions of what is noised already (post-processing).

    Raises: KitError, a sentence on the first thing that isn't charged.
    """
    if not plan.private:
        if plan.pixel_statistics == "private":
            raise KitError('pixel_statistics is "private", and privacy is "none": use "exact", or set privacy="patient".')
        if plan.noise == "distributed":
            raise KitError('noise is "distributed", and privacy is "none": there is no noise. Set privacy="patient".')
        return
    if (plan.target_epsilon > 0) == (plan.noise_multiplier > 0):
        raise KitError(
            f"target_epsilon is {plan.target_epsilon:g} and noise_multiplier {plan.noise_multiplier:g}: a private run needs "
            "exactly one of them, the other 0."
        )
    unit, wanted = plan.privacy, statistics(plan)
    refused = (
        (plan.mixup > 0, f"mixup is {plan.mixup:g}: a film that is blended into others reaches more gradients than its own, "
         "so clipping doesn't bound it. Set mixup=0."),
        (plan.strategy == "scaffold" and plan.scaffold_option == "I",
         'scaffold_option "I" sends a gradient over all films without noise: use scaffold_option="II".'),
        (plan.strategy == "fedbn", 'strategy "fedbn" trains BatchNorm layers, which mix the films of a batch: use another '
         'strategy and norm="group".'),
        (plan.norm == "batch" and not (plan.frozen and plan.start), 'norm is "batch": BatchNorm mixes the films of a batch, and '
         'its statistics are of private films. Use norm="group", or freeze all its layers (frozen) at a public start (start).'),
        (plan.patience > 0, f"patience is {plan.patience}: stopping early looks at validation films, which isn't charged. "
         "Set patience=0 and fix the rounds."),
        (plan.pixel_statistics == "exact", 'pixel_statistics is "exact", and they are of private films: use "public" with '
         'pixel_mean and pixel_std that are known without them, or "private" with statistics_noise.'),
        (unit == "patient" and plan.weighting == "films", 'weighting is "films", and the exact number of films tells of a '
         'patient: use "patients", which is a public number, or "uniform".'),
        (wanted and not plan.statistics_noise, f"{' and '.join(wanted)} look at private films, and statistics_noise is 0: "
         'give it a noise multiplier to be charged, or use class_weights="none", pixel_statistics="public" and another '
         "feature_norm."),
        (bool(plan.statistics_noise and not wanted), f"statistics_noise is {plan.statistics_noise:g}, and no statistic is asked "
         'for: set it to 0, or class_weights="balanced", pixel_statistics="private" or feature_norm="l2_centred".'),
        (plan.augmentation_multiplicity > 1 and plan.augmentation == "none", f"augmentation_multiplicity is "
         f'{plan.augmentation_multiplicity}, and augmentation is "none": all copies would be equal. Set one or the other.'),
    )  # fmt: skip
    if plan.noise == "distributed":
        refused += _refused_if_distributed(plan)
    for holds, sentence in refused:
        if holds:
            raise KitError(sentence)


def _refused_if_distributed(plan: TrainingPlan) -> tuple[tuple[bool, str], ...]:
    """What makes the update more than a function of one sum of clipped gradients a round, alike for all hospitals."""
    return (
        (plan.sync_every != 1, f"sync_every is {plan.sync_every}: after several steps at a hospital the clipping norm doesn't "
         "bound what a patient changes. Set sync_every=1."),
        (plan.strategy not in ("fedavg", "fedadam", "fedyogi"), f'strategy is "{plan.strategy}", whose sites do more than send a '
         'gradient: use "fedavg", "fedadam" or "fedyogi".'),
        (plan.optimizer != "sgd", f'optimizer is "{plan.optimizer}", and the server makes the step: use "sgd", or Adam at the '
         'server (strategy="fedadam").'),
        (plan.participation < 1, f"participation is {plan.participation:g}: all hospitals have to add their noise. Set it to 1."),
        (plan.weighting != "uniform", f'weighting is "{plan.weighting}": in a sum of clipped gradients all hospitals weigh the '
         'same, as all sample batch_size patients. Use "uniform".'),
        (plan.clipping == "adaptive", 'clipping is "adaptive", and all hospitals have to clip alike: use "fixed".'),
        (plan.min_sites < 3, f"min_sites is {plan.min_sites}: noise is shared out so that that many hospitals are enough, and a "
         "secure sum needs 3. Set it to 3 or more."),
        (plan.min_sites - plan.colluders < 2, f"colluders is {plan.colluders} of at least {plan.min_sites} hospitals "
         '(min_sites), so each would have to add the whole noise: lower it, or use noise="local".'),
    )  # fmt: skip
