"""Which loss a round lowers: class weights, mixup."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from primia_kit.federation import Federation, pool_sites
from primia_kit.federation.fields import update_fields
from primia_kit.secagg import PlainSum
from primia_kit.seeds import numpy_generator, torch_generator

from .noise_sites import SMALL, Recording, hospitals, site


def test_class_weights_are_balanced_over_all_sites():
    sites = [site("A", [0] * 8 + [1], 1, size=16), site("B", [1, 1, 2, 0], 2, size=16)]
    recording = Recording()
    federation = Federation(replace(SMALL, class_weights="balanced"), sites, recording)
    union = np.concatenate([s.train.labels.numpy() for s in sites])
    np.testing.assert_allclose(
        federation.class_weights, compute_class_weight("balanced", classes=np.arange(3), y=union), rtol=1e-6
    )
    assert recording.seen["class counts"]["A"]["films"].tolist() == [8, 1, 0]
    assert federation.task().class_weights is federation.class_weights
    assert Federation(SMALL, sites, PlainSum()).class_weights is None


def test_class_weights_count_at_sites_with_a_single_label():
    """One step at each of three sites is a step along the gradient of the pooled, weighted loss."""
    changes = {"rounds": 1, "momentum": 0.0, "weight_decay": 0.0, "augmentation": "none", "batch_size": 100}
    plan = replace(SMALL, class_weights="balanced", **changes)
    sites = [site(name, [label] * count, label, size=16) for label, (name, count) in enumerate((("A", 40), ("B", 4), ("C", 4)))]
    federation = Federation(plan, sites)
    network, films = federation.spec.build(plan.seed), pool_sites(sites).train
    weights = torch.tensor([48 / 3 / 40, 4, 4])
    loss = F.cross_entropy(network(federation.spec.normalise(films.images)), films.labels, weights)
    expected = {
        name: parameter.detach() - plan.learning_rate_in(1, 0) * gradient
        for (name, parameter), gradient in zip(
            network.named_parameters(), torch.autograd.grad(loss, list(network.parameters())), strict=True
        )
    }
    federation.run_round()
    for name, value in expected.items():
        torch.testing.assert_close(federation.weights[name], value, atol=1e-5, rtol=1e-4)


def test_a_label_that_nobody_has_weighs_nothing():
    federation = Federation(replace(SMALL, class_weights="balanced"), [site("A", [0, 0, 1, 0], size=16)])
    assert federation.class_weights.tolist() == pytest.approx([4 / 6, 2, 0])
    assert math.isfinite(federation.run_round().losses["A"])


@pytest.mark.parametrize("changes", [{"mixup": 0.4}, {"class_weights": "balanced"}, {"mixup": 1.0, "class_weights": "balanced"}])
def test_a_step_with_mixup_and_class_weights_is_that_of_bare_torch(changes):
    plan = replace(SMALL, rounds=1, momentum=0.0, weight_decay=0.0, augmentation="none", batch_size=4, **changes)
    lone = site("A", [0, 0, 1, 2, 0], size=16)
    federation = Federation(plan, [lone])
    network, x, y = federation.spec.build(plan.seed), lone.train.images, lone.train.labels
    weights = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=y.numpy())).float()
    weights = weights if plan.class_weights == "balanced" else None
    blend = numpy_generator(plan.seed, 1, "A", "mixup")
    batches = torch.randperm(5, generator=torch_generator(plan.seed, 1, "A", "shuffle")).tensor_split(2)
    for step, batch in enumerate(batches):
        images, labels = federation.spec.normalise(x[batch]), y[batch]
        share, partner = 1.0, torch.arange(len(batch))
        if plan.mixup:
            share = blend.beta(plan.mixup, plan.mixup)
            partner = torch.from_numpy(blend.permutation(len(batch)))
        logits = network(share * images + (1 - share) * images[partner])
        losses = [F.cross_entropy(logits, y, weights, reduction="none").mean() for y in (labels, labels[partner])]
        loss = share * losses[0] + (1 - share) * losses[1]
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients):
                parameter -= plan.learning_rate_in(1, step / 2) * gradient
    federation.run_round()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(federation.weights[name], value, atol=1e-6, rtol=1e-4)


def test_uniform_weights_leave_updates_as_much_room_as_weights_by_films():
    for weighting in ("uniform", "films"):
        federation = Federation(replace(SMALL, weighting=weighting), hospitals(*"ABC"))
        mean_weight = federation.total_weight / 3
        fields = update_fields(["layer"], federation.total_weight, 3)
        assert fields["layer"].bound / mean_weight == pytest.approx(2**12 / 3)
