"""Each strategy against its paper's arithmetic, written another way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional as F

from primia_kit.errors import KitError
from primia_kit.federation import Federation, SiteMemory, TrainingPlan, evaluate, federate
from primia_kit.federation.local import make_optimizer
from primia_kit.federation.strategies import SERVERS
from primia_kit.models import ModelSpec
from primia_kit.secagg import PlainSum
from primia_kit.seeds import torch_generator

from .noise_sites import CLASSES, PLAN, site

SGD = replace(PLAN, momentum=0.0, weight_decay=0.0, schedule="constant", augmentation="none", size=16)
SPEC = ModelSpec("small_cnn", CLASSES, "batch", "max", 16, "pad", 0.4, 0.3)
UNEQUAL = ([0, 1, 2, 0, 1, 2, 0], [2, 2, 1], [0, 0, 1, 2, 1])


def sites(*labels, size=16):
    return [site(name, list(each), seed, size=size) for seed, (name, each) in enumerate(zip("ABCDEFG", labels or UNEQUAL))]


def by_hand(plan, spec, weights, films, name, round=1, adjust=lambda name, gradient, y: gradient):
    """Plain SGD with the kit's batches; returns the end and all the batches' own gradients."""
    network = spec.build_with(weights)
    shuffle = torch_generator(plan.seed, round, name, "shuffle")
    cut = plan.batches_in_a_pass(len(films))
    batches = [b for _ in range(plan.local_epochs) for b in torch.randperm(len(films), generator=shuffle).tensor_split(cut)]
    path = []
    for batch in batches:
        loss = F.cross_entropy(network(spec.normalise(films.images[batch])), films.labels[batch])
        names, parameters = zip(*network.named_parameters())
        gradients = torch.autograd.grad(loss, parameters)
        path.append(dict(zip(names, gradients)))
        with torch.no_grad():
            for n, p, g in zip(names, parameters, gradients):
                p -= plan.learning_rate * adjust(n, g, p)
    return network.state_dict(), path


def close(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], **(tolerance or {"atol": 2e-6, "rtol": 1e-4}), msg=lambda m, n=name: f"{n}: {m}"
        )


def test_fedprox_pulls_every_step_towards_the_global_model():
    plan = replace(SGD, strategy="fedprox", proximal_mu=5.0, local_epochs=3)
    hospitals = sites()
    federation = Federation(plan, hospitals)
    x = federation.weights
    expected = {name: torch.zeros_like(value) for name, value in x.items()}
    for s in hospitals:
        y, _ = by_hand(plan, federation.spec, x, s.train, s.name, adjust=lambda n, g, y: g + 5.0 * (y - x[n]))
        for name in expected:
            expected[name] += len(s.train) / 15 * y[name]
    federation.run_round()
    close(federation.weights, expected)
    plain = Federation(replace(plan, strategy="fedavg"), hospitals)
    plain.run_round()
    moved = [sum((w[n] - x[n]).square().sum() for n in x) for w in (federation.weights, plain.weights)]
    assert moved[0] < 0.95 * moved[1]


def test_fedprox_without_pull_is_fedavg():
    one = federate(replace(SGD, strategy="fedprox", proximal_mu=0.0), sites())
    other = federate(SGD, sites())
    assert all(one.model.weights[n].equal(other.model.weights[n]) for n in one.model.weights)


@pytest.mark.parametrize("option", ["I", "II"])
@pytest.mark.parametrize("weighting", ["films", "uniform"])
def test_scaffold_is_algorithm_1(option, weighting):
    """Three rounds by hand, with the paper's own formula for option II: c_i - c + (x - y) / (K eta)."""
    plan = replace(SGD, strategy="scaffold", scaffold_option=option, weighting=weighting, rounds=3, local_epochs=2)
    hospitals = sites()
    federation = Federation(plan, hospitals, PlainSum())  # to the last digit; a secure sum rounds
    x = {name: value.clone() for name, value in federation.weights.items()}
    share = {s.name: (len(s.train) / 15 if weighting == "films" else 1 / 3) for s in hospitals}
    c = {name: torch.zeros_like(value) for name, value in x.items()}
    own = {s.name: dict(c) for s in hospitals}
    for number in (1, 2, 3):
        new_x, new_c = {n: torch.zeros_like(v) for n, v in x.items()}, {n: v.clone() for n, v in c.items()}
        for s in hospitals:
            c_i = own[s.name]
            y, path = by_hand(plan, federation.spec, x, s.train, s.name, number, lambda n, g, _, c_i=c_i, c=c: g - c_i[n] + c[n])
            if option == "II":
                renewed = {n: c_i[n] - c[n] + (x[n] - y[n]) / (len(path) * plan.learning_rate) for n in x}
            else:
                network = federation.spec.build_with(x)
                loss = F.cross_entropy(network(federation.spec.normalise(s.train.images)), s.train.labels)
                renewed = dict(zip(x, torch.autograd.grad(loss, list(network.parameters()))))
            for n in x:
                new_x[n] += share[s.name] * y[n]
                new_c[n] += share[s.name] * (renewed[n] - c_i[n])
            own[s.name] = renewed
        x, c = new_x, new_c
        federation.run_round()
        close(federation.weights, x, atol=1e-5, rtol=1e-3)
        close(federation.server.control(), c, atol=1e-4, rtol=1e-3)


def test_scaffolds_server_keeps_the_mean_of_the_sites_variates_whoever_takes_part():
    hospitals = sites([0, 1, 2] * 2, [0, 1], [2, 2, 1], [1, 0, 0, 2], [2, 0])
    federation = Federation(replace(PLAN, strategy="scaffold", participation=0.6, rounds=5, size=16), hospitals)
    total = sum(len(s.train) for s in hospitals)
    for done in federation:
        assert sorted(done.absent.values()) == ["not drawn"] * 2
        for name, c in federation.server.control().items():
            mean = torch.zeros_like(c)
            for s in hospitals:
                mean += len(s.train) / total * federation.memories[s.name].kept.get("control." + name, torch.zeros_like(c))
            torch.testing.assert_close(c, mean, atol=1e-5, rtol=1e-4)
    assert any(m.kept for m in federation.memories.values())


def test_scaffold_corrects_the_drift_of_unlike_sites():
    """One label a site and many local steps: what pulls the sites apart must cost less."""
    hospitals = sites([0] * 8, [1] * 8, [2] * 8)
    plan = replace(SGD, rounds=12, local_epochs=4, learning_rate=0.01, architecture="small_cnn")
    losses = {}
    for strategy in ("fedavg", "scaffold"):
        model = federate(replace(plan, strategy=strategy), hospitals).model
        network = model.network()
        with torch.no_grad():
            logits = [F.cross_entropy(network(model.spec.normalise(s.train.images)), s.train.labels) for s in hospitals]
        losses[strategy] = float(sum(logits) / 3)
    assert losses["scaffold"] < losses["fedavg"]


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
@given(st.lists(st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4), min_size=1, max_size=5), st.floats(1, 50, width=32))
@example([[2.5, -0.009999999776482582, 0.0, 1.75], [0.0, 0.0, 0.0, 1.0]], 3.0)
def test_adaptive_servers_follow_reddi_algorithm_2(strategy, deltas, weight):
    plan = TrainingPlan(strategy=strategy, server_learning_rate=0.1, server_beta1=0.8, server_beta2=0.95, server_tau=0.01)
    network = torch.nn.Linear(2, 2, bias=False).double()  # Yogi's sign jumps where v = d^2, which float32 would blur
    server = SERVERS[strategy](plan, network)
    weights = {"weight": network.weight.detach().clone()}
    x, m, v = weights["weight"].numpy().astype(float).ravel(), np.zeros(4), np.full(4, 0.01**2)
    server.trainable, server.state = ("p",), {f"{k[0]}.p": t for k, t in server.state.items()}  # "weight" is a sum's own part
    weights = {"p": weights["weight"]}
    for delta in deltas:
        d = np.array(delta)
        total = {"weight": torch.tensor(weight).double(), "p": torch.tensor(d * weight).view(2, 2)}
        weights = server.step(weights, total)
        m = 0.8 * m + 0.2 * d
        v = 0.95 * v + 0.05 * d**2 if strategy == "fedadam" else v - 0.05 * d**2 * np.sign(v - d**2)
        x = x + 0.1 * m / (np.sqrt(v) + 0.01)
    np.testing.assert_allclose(weights["p"].numpy().ravel(), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
def test_adaptive_servers_average_running_statistics_plainly(strategy):
    plan = replace(PLAN, strategy=strategy, norm="batch", size=16)
    federations = [Federation(p, sites()) for p in (plan, replace(plan, strategy="fedavg"))]
    for federation in federations:
        federation.run_round()
    adaptive, average = (federation.weights for federation in federations)
    assert adaptive["norm1.running_mean"].equal(average["norm1.running_mean"])
    assert not adaptive["norm1.weight"].equal(average["norm1.weight"])


def test_fedbn_keeps_batchnorm_at_the_site_and_averages_the_rest():
    class Listening(PlainSum):
        parts = ()

        def sum(self, purpose, contributions, fields=None):
            if "update" in purpose:
                self.parts = set(next(iter(contributions.values())))
            return super().sum(purpose, contributions, fields)

    listening, hospitals = Listening(), sites()
    plan = replace(PLAN, strategy="fedbn", norm="batch", size=16, rounds=3)
    run = federate(plan, hospitals, aggregator=listening)
    assert not any("norm" in name for name in listening.parts) and "conv1.weight" in listening.parts
    a, b = run.models["A"].weights, run.models["B"].weights
    differing = {name for name in a if not a[name].equal(b[name])}
    assert differing == {f"norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias", "running_mean", "running_var")}
    with pytest.raises(KitError, match=r"run\.models\['A'\]"):
        _ = run.model
    assert all(evaluate(run.models[s.name], [s])["all"].films == 3 for s in hospitals)


def test_fedbn_goes_on_from_the_sites_own_layers():
    """The second round by hand: shared weights from the server, BatchNorm as this site left it."""
    plan = replace(SGD, strategy="fedbn", norm="batch", rounds=2)
    federation = Federation(plan, sites())
    federation.run_round()
    start = federation.models()["A"].weights
    assert not start["norm1.bias"].equal(federation.weights["norm1.bias"])
    expected, _ = by_hand(plan, federation.spec, start, federation.sites[0].train, "A", round=2)
    federation.run_round()
    after = federation.models()["A"].weights
    for name in ("norm1.weight", "norm1.bias", "norm2.running_var", "norm2.running_mean"):
        torch.testing.assert_close(after[name], expected[name], atol=1e-5, rtol=1e-3)


def test_fedbn_at_one_site_is_plain_training():
    lone, plan = sites([0, 1, 2] * 3), replace(PLAN, norm="batch", size=16)
    one, other = federate(replace(plan, strategy="fedbn"), lone).model, federate(plan, lone).model
    for name, value in other.weights.items():  # (x + w (y - x) / w rounds where the layer isn't sent and comes back)
        torch.testing.assert_close(one.weights[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "scaffold", "fedadam", "fedyogi", "fedbn"])
def test_every_strategy_learns(strategy):
    hospitals = sites([0, 1, 2] * 5, [0, 1, 2] * 3, [2, 1, 0] * 3)
    plan = replace(PLAN, strategy=strategy, norm="batch", size=16, rounds=6, local_epochs=2, server_learning_rate=0.01)
    run = federate(plan, hospitals)
    first, last = (sum(r.losses.values()) for r in (run.rounds[0], run.rounds[-1]))
    assert last < 0.6 * first
    scores = [evaluate(run.models[s.name], [s])["all"].accuracy for s in hospitals]
    assert sum(scores) / 3 > 0.7


def test_a_site_offers_state_and_keeps_it_only_when_it_is_in_the_sum():
    federation = Federation(replace(PLAN, strategy="scaffold", size=16), sites())
    memory = SiteMemory()
    federation.sites[0].update(federation.task(), memory)
    assert memory.offered and not memory.kept
    memory.settle(included=False)
    assert not memory.offered and not memory.kept
    federation.sites[0].update(federation.task(), memory)
    memory.settle(included=True)
    assert memory.kept and not memory.offered


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"strategy": "fedbn", "norm": "group"}, 'use norm="batch"'),
        ({"strategy": "scaffold", "optimizer": "adam"}, 'use optimizer="sgd"'),
        ({"strategy": "fedpox"}, "did you mean 'fedprox'"),
        ({"proximal_mu": -1.0}, "can't be negative"),
        ({"server_tau": 0.0}, "above 0"),
        ({"server_beta2": 1.0}, r"\[0, 1\)"),
        ({"participation": 0.0}, r"\(0, 1\]"),
        ({"validation_share": 0.6}, r"\(0, 0.5\]"),
        ({"mixup": -0.1}, "can't be negative"),
        ({"warmup": 1.0}, r"\[0, 1\)"),
        ({"sync_every": -1}, "the least is 0"),
        ({"min_sites": 0}, "the least is 1"),
    ],
)
def test_a_plan_that_makes_no_sense_is_a_sentence(changes, sentence):
    with pytest.raises(KitError, match=sentence):
        TrainingPlan(**changes)


def test_the_optimizer_is_the_plans():
    network = torch.nn.Linear(2, 2)
    assert isinstance(make_optimizer(network, TrainingPlan(optimizer="adam")), torch.optim.Adam)
    group = make_optimizer(network, TrainingPlan(momentum=0.5)).param_groups[0]
    assert group["momentum"] == 0.5 and group["nesterov"]
