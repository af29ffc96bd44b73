"""Private training of the last layer alone: features, their noised centre, public starts, averaged weights."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from primia_kit.errors import KitError
from primia_kit.federation import Federation, federate, trainable
from primia_kit.models import feature_extractor, weights_sha256
from primia_kit.privacy import Gaussian, Ledger, NoiseSource
from primia_kit.secagg import PlainSum

from .noise_sites import PLAN, site
from .private_hospitals import HEAD, PRIVATE, flat, hospital, hospitals, one_update

pytestmark = pytest.mark.usefixtures("one_thread")


# --- the last layer alone


@pytest.mark.parametrize("norm", ["l2", "l2_centred"])
def test_the_fast_path_for_the_last_layer_is_the_slow_one(monkeypatch, norm):
    plan = replace(HEAD, feature_norm=norm, statistics_noise=float(norm == "l2_centred"), sync_every=3)
    monkeypatch.setattr(NoiseSource, "noised", lambda self, values, std: values)
    fast, _, memory = one_update(plan)
    assert memory.features.shape == (20, 500) and fast.keys() == {"weight", "fc2.weight", "fc2.bias"}
    torch.testing.assert_close(memory.features.norm(dim=1), torch.full((20,), {"l2": 1.0, "l2_centred": 2.0}[norm]))
    monkeypatch.setattr("primia_kit.federation.site.trained_head", lambda network, plan: None)
    slow, _, memory = one_update(plan)
    assert memory.features is None
    torch.testing.assert_close(flat(fast), flat(slow), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("norm", ["none", "l2_centred"])
def test_the_same_recipe_without_privacy_uses_the_features_too(monkeypatch, norm):
    plan = replace(HEAD, privacy="none", rounds=2, feature_norm=norm)
    who = hospitals()
    fast = federate(plan, who, aggregator=PlainSum())
    assert all(r.losses.keys() == set("ABC") and not r.epsilons for r in fast.rounds) and fast.largest_epsilon is None
    monkeypatch.setattr("primia_kit.federation.site.trained_head", lambda network, plan: None)
    slow = federate(plan, who, aggregator=PlainSum())
    for name, weights in slow.model.weights.items():
        torch.testing.assert_close(fast.model.weights[name], weights, atol=1e-5, rtol=1e-3)
    start = Federation(plan, who).weights
    assert all(torch.equal(weights, start[name]) == (not name.startswith("fc2")) for name, weights in slow.model.weights.items())


def unit_features(run, films):
    network = feature_extractor(run.model.network())
    return F.normalize(network(run.model.spec.normalise(films.images)), dim=1)


def test_the_center_is_the_mean_over_all_films():
    who = [hospital("A", 0), hospital("B", 1, patients=4), hospital("C", 2)]
    run = federate(replace(HEAD, privacy="none", feature_norm="l2_centred"), who)
    everybody = torch.cat([unit_features(run, hospital.train) for hospital in who])
    torch.testing.assert_close(run.model.weights["fc2.center"], everybody.mean(0), atol=1e-5, rtol=0)
    layer, features = run.model.network().fc2, everybody[:3]
    torch.testing.assert_close(layer(5 * features), F.linear(2 * F.normalize(features - layer.center), layer.weight, layer.bias))


def test_a_private_center_is_noised_and_charged(monkeypatch, tmp_path):
    """Patients count alike, each moves the sum by 1 at most, and the ledger has it before the first round."""
    plan = replace(HEAD, feature_norm="l2_centred", statistics_noise=3.0)
    who = [
        hospital("A", 0),
        site("B", [i % 3 for i in range(20)], 1, size=16, patients=["p0"] * 11 + [f"p{i}" for i in range(1, 10)]),
    ]
    asked = []

    def noised(self, values, std):
        asked.append(std)
        return values

    monkeypatch.setattr(NoiseSource, "noised", noised)
    run = federate(plan, who, aggregator=PlainSum(), ledgers=tmp_path)
    assert asked[:2] == [3.0, 3.0]
    rows = []
    for hospital_ in who:
        features = unit_features(run, hospital_.train)
        for patient in dict.fromkeys(hospital_.train.patients):
            rows.append(features[[p == patient for p in hospital_.train.patients]].mean(0))
    torch.testing.assert_close(run.model.weights["fc2.center"], torch.stack(rows).mean(0), atol=1e-5, rtol=0)
    assert Ledger.open(tmp_path / "A").history[0] == (Gaussian(3.0), 1)
    with pytest.raises(KitError, match="needs features that never change"):
        replace(plan, augmentation="shift")


def test_a_noised_center_is_never_longer_than_features_are():
    plan = replace(HEAD, feature_norm="l2_centred", statistics_noise=1000.0)
    assert float(Federation(plan, hospitals()).weights["fc2.center"].norm()) == pytest.approx(1)


def test_a_resumed_run_keeps_its_center(tmp_path):
    plan = replace(HEAD, feature_norm="l2_centred", statistics_noise=1.0)
    first = Federation(plan, hospitals(), checkpoints=tmp_path)
    first.run_round()
    again = Federation(plan, hospitals(), checkpoints=tmp_path)
    assert torch.equal(again.weights["fc2.center"], first.weights["fc2.center"])
    assert len(again.memories["A"].privacy.ledger.history) == 2  # the center isn't charged twice


def test_features_are_worked_out_once_for_all_runs(monkeypatch):
    who, made = hospitals(), []
    monkeypatch.setattr(
        trainable, "feature_extractor", lambda network: made.append(CountedCalls(feature_extractor(network))) or made[-1]
    )
    for seed in (0, 1):
        federate(replace(HEAD, noise_multiplier=1.0 + seed), who, aggregator=PlainSum())
    assert sum(extractor.calls for extractor in made) == 3
    federate(replace(HEAD, seed=7), who, aggregator=PlainSum())  # another body
    assert sum(extractor.calls for extractor in made) == 6
    for hospital_ in who:
        hospital_.train.images.mul_(0.5)
    federate(replace(HEAD, seed=7), who, aggregator=PlainSum())  # other films in the same memory
    assert sum(extractor.calls for extractor in made) == 9


class CountedCalls(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, x):
        self.calls += 1
        return self.network(x)


# --- start, frozen layers, averaged weights


def start_of(plan):
    weights = plan.model_spec(0.5, 0.25).build(9).state_dict()
    for name in weights:
        if name.endswith("running_mean"):
            weights[name] += 0.1
    return weights


def test_frozen_batchnorm_keeps_the_public_starts_statistics():
    plan = replace(PRIVATE, architecture="resnet9", size=32, frozen=("body",), rounds=1, batch_size=2)
    start = start_of(replace(plan, privacy="none", norm="batch"))
    plan = replace(plan, norm="batch", start=weights_sha256(start))
    who = [site(name, [0, 1, 2, 1], seed, size=32) for seed, name in enumerate("ABC")]
    run = federate(plan, who, start=start)
    for name, value in run.model.weights.items():
        assert torch.equal(value, start[name]) == (not name.startswith("fc.")), name
    with pytest.raises(KitError, match=r"Layer layer4.0.bn1 is a BatchNorm2d in training mode"):
        federate(replace(plan, frozen=("conv1", "bn1", "layer1", "layer2", "layer3")), who, start=start)


def test_a_start_is_what_the_plan_says():
    start = start_of(PRIVATE)
    named = replace(PRIVATE, start=weights_sha256(start))
    with pytest.raises(KitError, match="give them as start"):
        federate(named, hospitals())
    with pytest.raises(KitError, match="the plan's key start names none"):
        federate(PRIVATE, hospitals(), start=start)
    other = {**start, "fc2.bias": start["fc2.bias"] + 1}
    with pytest.raises(KitError, match=f"have SHA-256 {weights_sha256(other)}, and the plan's key start says"):
        federate(named, hospitals(), start=other)
    assert all(torch.equal(value, start[name]) for name, value in Federation(named, hospitals(), start=start).weights.items())


@pytest.mark.parametrize(
    ("frozen", "sentence"),
    [(("layer9",), "frozen names 'layer9'"), (("conv1", "conv2", "fc1", "fc2"), "no layer is left to train")],
)
def test_frozen_names_layers(frozen, sentence):
    with pytest.raises(KitError, match=sentence):
        Federation(replace(PLAN, size=16, frozen=frozen), hospitals())


def test_averaged_weights_are_the_models():
    plan = replace(PRIVATE, ema=0.75)
    federation, seen = Federation(plan, hospitals()), []
    for _ in federation:
        seen.append(federation.weights["fc2.bias"])
    shares = torch.tensor([0.75**2, 0.75, 1.0])
    wanted = (torch.stack(seen) * (shares / shares.sum())[:, None]).sum(0)
    torch.testing.assert_close(federation.run().model.weights["fc2.bias"], wanted)
