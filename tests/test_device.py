"""Where and how precisely a site computes: the logic runs on any CPU, the rest where there is a GPU."""

from dataclasses import replace

import pytest
import torch

from primia_kit.errors import KitError
from primia_kit.federation import Device, choose_device, evaluate, federate

from .noise_sites import PLAN, digest, site

SMALL = replace(PLAN, norm="batch", size=16, rounds=4, local_epochs=2)


def hospitals():
    return [site(name, [0, 1, 2] * 5, seed, size=16) for seed, name in enumerate("ABC")]


def test_auto_takes_a_gpu_if_there_is_one():
    chosen = choose_device()
    assert chosen.kind == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == Device("cpu", "float32")
    assert choose_device("cpu", "bf16").precision == "bf16"


@pytest.mark.parametrize(
    ("device", "precision", "sentence"),
    [
        ("gpu", "auto", "device is 'gpu'"),
        ("cuda:99", "auto", r"torch sees \S+ such device"),
        ("cuda:x", "auto", "device is 'cuda:x'"),
        ("cuda:", "auto", "device is 'cuda:'"),
        ("cpu", "bf61", "did you mean 'bf16'"),
        ("cpu", "half", "precision is 'half'"),
    ],
)
def test_a_device_that_isnt_there_is_a_sentence(device, precision, sentence):
    with pytest.raises(KitError, match=sentence):
        federate(SMALL, hospitals(), device=device, precision=precision)


def test_the_device_is_no_part_of_the_plan():
    assert "device" not in SMALL.to_json() and "precision" not in SMALL.to_json()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("strategy", ["fedavg", "scaffold"])
def test_mixed_precision_learns_and_what_leaves_a_site_is_float32(precision, strategy):
    plan = replace(SMALL, strategy=strategy)
    run = federate(plan, hospitals(), device="cpu", precision=precision)
    assert all(w.dtype == torch.float32 for w in run.model.weights.values() if w.is_floating_point())
    assert sum(run.rounds[-1].losses.values()) < 0.7 * sum(run.rounds[0].losses.values())
    assert evaluate(run.model, hospitals())["all"].accuracy > 0.7
    assert digest(run) != digest(federate(plan, hospitals(), device="cpu"))  # it did compute otherwise
    assert digest(run) == digest(federate(plan, hospitals(), device="cpu", precision=precision))


def test_a_step_that_overflows_in_fp16_is_left_out_and_not_counted(monkeypatch):
    """The scaler starts so high that the first gradients overflow; it halves its scale until they don't."""

    class Reckless(Device):
        def scaler(self, scale=None):
            return torch.amp.GradScaler("cpu", init_scale=scale or 2.0**40)

    monkeypatch.setattr("primia_kit.federation.engine.choose_device", lambda *_: Reckless("cpu", "fp16"))
    run = federate(replace(SMALL, rounds=1, local_epochs=8, strategy="scaffold"), hospitals())
    made, planned = run.rounds[0].steps["A"], 8 * SMALL.batches_in_a_pass(15)
    assert 0 < made < planned
    assert all(torch.isfinite(w).all() for w in run.model.weights.values())


def test_the_scale_of_fp16_survives_a_sync(monkeypatch, tmp_path):
    """With a step a round, a scale that is found anew each time would never let a step be made."""

    class Reckless(Device):
        def scaler(self, scale=None):
            return torch.amp.GradScaler("cpu", init_scale=scale or 2.0**40)

    monkeypatch.setattr("primia_kit.federation.engine.choose_device", lambda *_: Reckless("cpu", "fp16"))
    plan = replace(SMALL, rounds=40, sync_every=1)
    steps = [r.steps["A"] for r in federate(plan, hospitals()).rounds]
    assert steps[0] == 0 and set(steps[-5:]) == {1}
    halves = federate(replace(plan, rounds=40), hospitals(), checkpoints=tmp_path)
    assert [r.steps["A"] for r in halves.rounds] == steps


def test_float32_needs_no_scaler():
    assert Device("cpu", "float32").scaler() is None and Device("cpu", "bf16").scaler() is None
    assert Device("cpu", "fp16").scaler().is_enabled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU here")
@pytest.mark.parametrize("precision", ["float32", "auto", "fp16"])
@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "scaffold", "fedadam", "fedbn"])
def test_training_on_a_gpu_learns_the_same(strategy, precision):
    plan = replace(SMALL, strategy=strategy, class_weights="balanced", mixup=0.2, patience=3)
    run = federate(plan, hospitals(), device="cuda", precision=precision)
    assert all(w.device.type == "cpu" for model in run.models.values() for w in model.weights.values())
    on_cpu = federate(plan, hospitals(), device="cpu")
    assert run.rounds[0].losses["A"] == pytest.approx(on_cpu.rounds[0].losses["A"], rel=0.05)
    assert sum(run.rounds[-1].losses.values()) < 0.8 * sum(run.rounds[0].losses.values())
