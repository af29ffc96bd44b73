"""One patient moves the sum of clipped gradients by C at most, whatever it brings; and the sum is the right one."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from primia_kit.errors import KitError
from primia_kit.models import ModelSpec, NormalisedLinear
from primia_kit.privacy.clipping import AdaptiveClipping
from primia_kit.privacy.gradients import FilmGradients, HeadGradients, check_layers, clipped_sum

pytestmark = pytest.mark.usefixtures("one_thread")
SPEC = ModelSpec("resnet9", ("a", "b", "c"), "group", "max", 32, "pad", 0.5, 0.25)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(F.relu(self.norm(self.conv(x))).mean((2, 3)))


def tiny(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Tiny()


def patients(counts, seed=0, size=6):
    """(films, labels) of each patient; films of very different contrast, so that gradients differ in size."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 1, size, size, generator=generator) * 4.0 ** (i % 4), torch.randint(0, 3, (n,), generator=generator))
        for i, n in enumerate(counts)
    ]


def by_hand(network, people, clipping_norm, class_weights=None):
    """Autograd, a patient at a time."""
    total = None
    for films, labels in people:
        losses = [F.cross_entropy(network(f[None]), y[None], class_weights, reduction="sum") for f, y in zip(films, labels)]
        parts = torch.autograd.grad(sum(losses) / len(losses), [p for p in network.parameters() if p.requires_grad])
        flat = torch.cat([p.flatten() for p in parts])
        flat = flat * min(1.0, clipping_norm / float(flat.norm()))
        total = flat if total is None else total + flat
    return total


def flat(sums):
    return torch.cat([value.flatten() for value in sums.values()])


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 100])
def test_the_sum_is_that_of_patients_one_by_one(chunk):
    network, people = tiny(), patients([1, 5, 2, 1, 9, 1, 1])
    weights = torch.tensor([0.5, 1.0, 2.0])
    found = clipped_sum(FilmGradients(network, weights), people, 0.6, chunk)
    torch.testing.assert_close(flat(found.sums), by_hand(network, people, 0.6, weights), atol=1e-6, rtol=1e-4)
    assert len(found.norms) == 7 and float(found.norms.min()) < 0.6 < float(found.norms.max())  # some are clipped, some aren't


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_per_film_gradients_are_autograds_in_any_memory_layout(memory_format):
    """Opacus 1.6's hooks give other numbers for convolutions in channels_last."""
    network = SPEC.build(0).to(memory_format=memory_format)
    (films, labels), *_ = patients([4], size=32)
    films = films.contiguous(memory_format=memory_format)
    found = FilmGradients(network)(films, labels)
    for i in range(4):
        alone = torch.autograd.grad(F.cross_entropy(network(films[i : i + 1]), labels[i : i + 1]), list(network.parameters()))
        for got, wanted in zip(found.values(), alone):
            torch.testing.assert_close(got[i], wanted, atol=1e-5, rtol=1e-3)


def test_per_film_gradients_are_opacus_hooks_in_its_own_layout():
    import warnings

    from opacus.grad_sample.grad_sample_module import GradSampleHooks

    network = SPEC.build(0)
    (films, labels), *_ = patients([5], size=32)
    found = FilmGradients(network)(films, labels)
    hooks = GradSampleHooks(network, loss_reduction="sum")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        F.cross_entropy(network(films), labels, reduction="sum").backward()
    for (name, parameter), got in zip(network.named_parameters(), found.values()):
        torch.testing.assert_close(got, parameter.grad_sample, atol=1e-4, rtol=1e-3, msg=name)
    hooks.cleanup()


largest_step_sum = clipped_sum  # a name of its own, so that a mutant can take its place
counts = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def largest_step(counts, seed, chunk, clipping_norm, copies=1):
    """The most that the sum changes if one patient goes."""
    network, gone = tiny(seed), seed % len(counts)
    people = [(f.repeat(copies, 1, 1, 1), y.repeat(copies)) for f, y in patients(counts, seed)]
    gradients = FilmGradients(network)
    whole = largest_step_sum(gradients, people, clipping_norm, chunk)
    rest = largest_step_sum(gradients, people[:gone] + people[gone + 1 :], clipping_norm, chunk)
    return float((flat(whole.sums).double() - flat(rest.sums).double()).norm())


@settings(max_examples=30, deadline=None)
@given(counts, st.integers(0, 1000), st.integers(1, 12), st.sampled_from([1e-3, 0.1, 5.0]), st.integers(1, 3))
def test_a_patient_changes_the_sum_by_c_at_most(counts, seed, chunk, clipping_norm, copies):
    assert largest_step(counts, seed, chunk, clipping_norm, copies) <= clipping_norm * (1 + 1e-4)


def test_clipping_film_by_film_is_caught(monkeypatch):
    """The mutant: each film is a unit of its own, so a patient with nine films moves the sum by up to nine C."""

    def torn(gradients, people, clipping_norm, chunk):
        films = [(f[None], y[None]) for fs, ys in people for f, y in zip(fs, ys)]
        return clipped_sum(gradients, films, clipping_norm, chunk)

    bound = 1e-3 * (1 + 1e-4)
    assert largest_step([9, 9], 0, 64, 1e-3) <= bound
    monkeypatch.setitem(globals(), "largest_step_sum", torn)
    assert largest_step([9, 9], 0, 64, 1e-3) > 1.5 * bound


@settings(max_examples=25, deadline=None)
@given(counts, st.integers(0, 1000), st.sampled_from([1e-3, 0.3, 50.0]), st.booleans(), st.booleans())
def test_the_closed_form_for_a_head_is_the_general_one(counts, seed, clipping_norm, weighted, has_bias):
    generator = torch.Generator().manual_seed(seed)
    n = sum(counts)
    features, labels = torch.randn(n, 5, generator=generator) * 3, torch.randint(0, 3, (n,), generator=generator)
    owners = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    mixed = torch.randperm(n, generator=generator)  # a patient's films needn't stand together
    features, labels, owners = features[mixed], labels[mixed], owners[mixed]
    sampled = torch.rand(len(counts), generator=generator) < 0.7
    weights = torch.tensor([0.5, 1.0, 2.0]) if weighted else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(5, 3, bias=has_bias)
    found = HeadGradients(features, labels, owners, weights)(head, sampled, clipping_norm)
    people = [(features[owners == p], labels[owners == p]) for p in range(len(counts)) if sampled[p]]
    wanted = clipped_sum(FilmGradients(head, weights), people, clipping_norm, 100)
    torch.testing.assert_close(flat(found.sums), flat(wanted.sums), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(found.norms, wanted.norms, atol=1e-5, rtol=1e-4)


def test_nobody_is_a_sum_of_zeros():
    network = tiny()
    found = clipped_sum(FilmGradients(network), [], 1.0, 8)
    assert not flat(found.sums).any() and len(flat(found.sums)) == sum(p.numel() for p in network.parameters())
    head = HeadGradients(torch.randn(3, 4), torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1]))
    found = head(nn.Linear(4, 3), torch.zeros(2, dtype=torch.bool), 1.0)
    assert not flat(found.sums).any() and len(found.norms) == 0


def test_a_patient_whose_gradient_isnt_finite_counts_as_zero():
    network, people = tiny(), patients([2, 3, 1])
    broken = [people[0], (people[1][0] * float("nan"), people[1][1]), people[2]]
    found = clipped_sum(FilmGradients(network), broken, 0.3, 4)
    torch.testing.assert_close(flat(found.sums), by_hand(network, [people[0], people[2]], 0.3), atol=1e-6, rtol=1e-4)
    features = torch.tensor([[1.0, 2.0], [float("inf"), 0.0], [0.0, 1.0]])
    head = HeadGradients(features, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]))(nn.Linear(2, 3), torch.ones(3) > 0, 0.5)
    assert torch.isfinite(flat(head.sums)).all()


def test_frozen_layers_have_no_gradient_and_count_in_no_norm():
    network = tiny()
    network.conv.requires_grad_(False)
    found = clipped_sum(FilmGradients(network), patients([2, 1]), 0.3, 8)
    assert found.sums.keys() == {"norm.weight", "norm.bias", "fc.weight", "fc.bias"}
    torch.testing.assert_close(flat(found.sums), by_hand(network, patients([2, 1]), 0.3), atol=1e-6, rtol=1e-4)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.reader = nn.LSTM(6, 3, batch_first=True)


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), "Layer 1 is a BatchNorm2d in training mode"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2, track_running_stats=True)), "Layer 1 is a InstanceNorm2d"),
        (nn.Sequential(nn.Linear(1, 2), nn.Dropout(0.1)), "Layer 1 is a Dropout: its draws"),
        (Recurrent(), "Layer reader is a LSTM"),
    ],
)
def test_a_layer_in_which_films_meet_is_named(network, sentence):
    with pytest.raises(KitError, match=sentence):
        FilmGradients(network)


def test_layers_that_keep_films_apart_are_taken():
    check_layers(nn.Sequential(nn.BatchNorm2d(2).eval(), nn.Dropout(0.0), nn.GroupNorm(1, 2), nn.InstanceNorm2d(2)))
    spec = replace(SPEC, feature_norm="l2")
    assert isinstance(spec.build(0).fc, NormalisedLinear)
    network, (films, labels) = spec.build(0), patients([2], size=32)[0]
    found = FilmGradients(network)(films, labels)
    assert found["fc.weight"][0].norm() <= math.sqrt(2) + 1e-5  # the answer's error is at most sqrt(2), its input has length 1


# --- adaptive clipping


def test_noise_of_count_and_gradients_together_is_what_is_charged():
    for expected in (16.0, 400.0):
        for z in (0.5, 1.0, 4.0):
            rule = AdaptiveClipping(0.5, z, expected)
            assert z < rule.gradient_multiplier <= 1.034 * z
            # a patient moves gradients / C by 1 and the count less a half of each by 1/2
            together = (1 / rule.gradient_multiplier**2 + (0.5 / rule.count_noise) ** 2) ** -0.5
            assert together == pytest.approx(z)


def test_the_norm_finds_its_quantile():
    rule, norms, clipping_norm = AdaptiveClipping(0.3, 1.0, 1000.0), torch.rand(1000, dtype=torch.float64) * 5, 40.0
    for _ in range(200):
        clipping_norm = rule.next_norm(clipping_norm, norms, 0.0)
    assert clipping_norm == pytest.approx(float(norms.quantile(0.3)), rel=0.05)
    assert rule.next_norm(1.0, torch.full((1000,), math.nan), 0.0) > 1.0  # what isn't finite is above any norm


def test_encrypted_inference_refuses_normalised_features():
    from primia_kit.inference import compile_private
    from primia_kit.models import TrainedModel

    spec = replace(SPEC, architecture="small_cnn", norm="none", size=16, feature_norm="l2")
    model = TrainedModel(spec, spec.build(0).state_dict())
    with pytest.raises(KitError, match=r"fc2\.normalize: normalize has no encrypted form"):
        compile_private(model, torch.rand(4, 1, 16, 16))
