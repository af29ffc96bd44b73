"""A plan is frozen, strict and has one hash."""

import json
import re
from dataclasses import FrozenInstanceError, asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia_kit.errors import KitError
from primia_kit.federation import TrainingPlan

OTHER = {
    "classes": ("a", "b"), "architecture": "resnet18", "norm": "group", "pool": "avg", "size": 96, "geometry": "stretch",
    "rounds": 3, "local_epochs": 2, "batch_size": 4, "optimizer": "adam", "learning_rate": 0.5, "schedule": "constant",
    "momentum": 0.0, "weight_decay": 0.0, "augmentation": "none", "weighting": "uniform", "seed": 9,
    "sync_every": 7, "warmup": 0.1, "mixup": 0.2, "class_weights": "balanced", "strategy": "fedprox", "proximal_mu": 1.0,
    "scaffold_option": "I", "server_learning_rate": 0.1, "server_beta1": 0.5, "server_beta2": 0.5, "server_tau": 0.1,
    "participation": 0.5, "min_sites": 3, "patience": 4, "validation_share": 0.1, "frozen": ("layer1",), "start": "0f" * 32,
    "feature_norm": "l2", "pixel_statistics": "public", "pixel_mean": 0.4, "pixel_std": 0.3, "target_epsilon": 3.0,
    "noise_multiplier": 2.0, "delta": 1e-4, "clipping_norm": 0.5, "clipping": "adaptive", "clipping_quantile": 0.4,
    "virtual_batch": 8, "augmentation_multiplicity": 3, "statistics_noise": 4.0, "colluders": 0,
}  # fmt: skip
PRIVATE = TrainingPlan(norm="group", weighting="patients", pixel_statistics="public", privacy="patient", noise_multiplier=1.0)


def test_json_round_trip():
    plan = TrainingPlan(**OTHER)
    assert TrainingPlan.from_json(plan.to_json()) == plan
    assert TrainingPlan.from_json("{}") == TrainingPlan()


def test_every_key_changes_the_hash():
    alone = {"ema", "privacy", "noise"}  # don't go with all others
    assert OTHER.keys() | alone == {f.name for f in fields(TrainingPlan)}
    changed = OTHER | {"ema": 0.9}
    hashes = {TrainingPlan().sha256} | {replace(TrainingPlan(), **{name: value}).sha256 for name, value in changed.items()}
    hashes |= {replace(PRIVATE, privacy=privacy).sha256 for privacy in ("none", "patient", "film")}
    hashes.add(replace(PRIVATE, noise="distributed", sync_every=1, min_sites=3, weighting="uniform").sha256)
    assert len(hashes) == len(changed) + 1 + 3 + 1


def test_the_hash_is_that_of_canonical_json():
    plan = TrainingPlan(learning_rate=1)  # an int where a float is declared
    assert plan == TrainingPlan(learning_rate=1.0) and plan.sha256 == TrainingPlan(learning_rate=1.0).sha256
    shuffled = json.dumps(dict(reversed(asdict(plan).items())), indent=3)
    assert TrainingPlan.from_json(shuffled).sha256 == plan.sha256


def test_a_plan_is_frozen():
    with pytest.raises(FrozenInstanceError):
        TrainingPlan().rounds = 3


@pytest.mark.parametrize(
    ("key", "nearest"), [("ruonds", "rounds"), ("lr", None), ("learning-rate", "learning_rate"), ("batchsize", "batch_size")]
)
def test_an_unknown_key_names_the_nearest(key, nearest):
    with pytest.raises(KitError, match=f"no key '{key}'" + (rf" \(did you mean '{nearest}'\?\)" if nearest else "")):
        TrainingPlan.from_dict({key: 1})


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("rounds", "5", "rounds is '5'; it must be a whole number"),
        ("rounds", 5.0, "whole number"),
        ("rounds", True, "whole number"),
        ("rounds", 0, "the least is 1"),
        ("rounds", None, "whole number"),
        ("learning_rate", "high", "a finite number"),
        ("learning_rate", float("nan"), "a finite number"),
        ("learning_rate", 10**400, "a finite number"),
        ("learning_rate", 0, "above 0"),
        ("momentum", 1, r"\[0, 1\)"),
        ("weight_decay", -1, "negative"),
        ("batch_size", 1, "the least is 2"),
        ("seed", -1, "the least is 0"),
        ("size", 16, "the least for resnet9 is 32"),
        ("architecture", "vgg19", "did you mean 'vgg16'"),
        ("norm", 3, "one of batch, group, none"),
        ("classes", "normal", "a list of names"),
        ("classes", ["one"], "two different labels"),
        ("classes", ["a", "a"], "two different labels"),
        ("classes", [1, 2], "a list of names"),
        ("start", 7, "a text"),
        ("start", "abc", "64 hexadecimal digits"),
        ("frozen", "body", "a list of names"),
        ("ema", 1.0, r"\[0, 1\)"),
        ("delta", 0, r"\(0, 1\)"),
        ("noise_multiplier", -1, "negative"),
        ("clipping_norm", 0, "above 0"),
        ("privacy", "record", "one of none, patient, film"),
    ],
)
def test_a_wrong_value_is_a_sentence(key, value, sentence):
    with pytest.raises(KitError, match=sentence):
        TrainingPlan.from_dict({key: value})


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", '{"learning_rate": NaN}'])
def test_json_that_is_no_plan_is_a_sentence(text):
    with pytest.raises(KitError):
        TrainingPlan.from_json(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda s: st.lists(s, max_size=3), max_leaves=4
)


@given(st.sampled_from(list(OTHER)), json_values)
def test_any_value_gives_a_plan_that_survives_json_or_a_sentence(key, value):
    try:
        plan = TrainingPlan.from_dict({key: value})
    except KitError as error:
        assert str(error).startswith(key) or key in str(error)
    else:
        assert TrainingPlan.from_json(plan.to_json()) == plan


def test_the_learning_rate_is_a_function_of_the_round():
    plan = TrainingPlan(rounds=4, learning_rate=1.0)
    assert [round(plan.learning_rate_in(r), 4) for r in (1, 2, 3, 4)] == [1.0, 0.8536, 0.5, 0.1464]
    assert replace(plan, schedule="constant").learning_rate_in(4) == 1.0


def test_a_plan_prints_as_a_list_with_its_hash():
    text = str(TrainingPlan())
    assert "delta" not in text and "delta" in str(PRIVATE) and "target_epsilon" not in str(PRIVATE)
    assert re.search(r"^rounds +20$", text, re.M) and text.endswith(TrainingPlan().sha256)
