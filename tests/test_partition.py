"""Patients are shared out whole, every site gets its part of every split, and the skew is the one asked for."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia_kit import figures
from primia_kit.data import Film, Manifest, open_films, partition, read_folder, share_out, site_names
from primia_kit.data.partition import OTHERS, PARTITIONS, majority_labels
from primia_kit.errors import KitError


def study(patients: int, labels: str = "nbv", places: tuple[str, ...] = ("",)) -> Manifest:
    """Patient i has 1 to 3 films, one of them with another label now and then, and is tested on if i % 4 == 0."""
    films = []
    for i in range(patients):
        for j in range(1 + i % 3):
            label = labels[(i + (j == 2)) % len(labels)]
            split = "test" if i % 4 == 0 else "train"
            films.append(Film(f"{i}-{j}.png", label, f"p{i}", split=split, acquired=places[i % len(places)]))
    return Manifest("", tuple(films))


def patients_at(manifest: Manifest, split: str = "train") -> Counter:
    return Counter({film.patient: film.site for film in manifest.select(split=split)}.values())


@given(
    st.integers(40, 120), st.integers(1, 9), st.sampled_from(["label_skew", "quantity_skew", "iid"]), st.floats(0.001, 1000),
    st.integers(0, 3), st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_patients_stay_whole_and_no_site_stays_empty(patients, sites, how, alpha, seed, minimum):
    manifest = study(patients)
    parts = partition(manifest, sites, how, alpha=alpha, minimum=minimum, seed=seed)
    assert [replace(film, site="") for film in parts] == list(manifest)  # nothing else has changed
    assert parts.check().sites == site_names(sites)
    assert all(patients_at(parts)[site] >= minimum and patients_at(parts, "test")[site] >= 1 for site in parts.sites)
    assert parts == partition(manifest, sites, how, alpha=alpha, minimum=minimum, seed=seed)


@pytest.mark.parametrize("alpha", [1e-300, 1e-6, 1e6, 1e300, 5])
@pytest.mark.parametrize("how", ["label_skew", "quantity_skew"])
def test_extreme_concentrations(how, alpha):
    assert len(patients_at(partition(study(60), 5, how, alpha=alpha))) == 5


def test_iid_is_sharing_out():
    assert partition(study(40), 4, "iid", seed=3) == share_out(study(40), 4, seed=3)


def shares_of_labels(manifest: Manifest, split: str) -> np.ndarray:
    """float [sites, labels]: the mix of labels among each site's patients."""
    label_of = majority_labels(manifest.select(split=split))
    site_of = {film.patient: film.site for film in manifest}
    table = np.array([[sum(site_of[p] == s and label_of[p] == c for p in label_of) for c in "bnv"] for s in manifest.sites])
    return table / table.sum(1, keepdims=True)


def test_alpha_sets_the_skew_and_sites_stay_of_one_size():
    deviations = []
    for alpha in (0.05, 5, 1000):
        parts = partition(study(2400), 6, "label_skew", alpha=alpha)
        sizes = patients_at(parts)
        assert max(sizes.values()) - min(sizes.values()) <= 6
        train, test = shares_of_labels(parts, "train"), shares_of_labels(parts, "test")
        assert np.abs(train - test).max() < 0.03  # a site's test films look like its training films
        deviations.append(np.abs(train - 1 / 3).mean())
    assert deviations[0] > 0.3 > 0.25 > deviations[1] > 0.05 > 0.01 > deviations[2]


def test_the_variance_is_a_dirichlet_distributions():
    """Var of a label's share under Dirichlet(alpha p) is p (1 - p) / (alpha + 1); fitting to equal sizes lowers it a little."""
    shares = np.concatenate(
        [shares_of_labels(partition(study(2400), 30, "label_skew", alpha=4, seed=s), "train") for s in range(3)]
    )
    expected = (1 / 3) * (2 / 3) / 5
    assert 0.7 * expected < shares.var(0).mean() < 1.2 * expected


def test_quantity_skew_is_of_size_alone():
    parts = partition(study(2400), 6, "quantity_skew", alpha=0.7)
    train, test = patients_at(parts), patients_at(parts, "test")
    assert max(train.values()) > 3 * min(train.values())
    for site in parts.sites:
        assert abs(train[site] / 1800 - test[site] / 600) < 0.005
    large = [i for i, site in enumerate(parts.sites) if train[site] > 100]
    assert np.abs(shares_of_labels(parts, "train")[large] - 1 / 3).max() < 0.05


def test_by_acquisition_a_patient_is_where_it_was_filmed_most():
    rows = [("p1", "Ulm"), ("p1", "Mainz"), ("p1", "Ulm"), ("p2", "Mainz"), ("p3", "Bonn"), ("p4", "Jena")]
    manifest = Manifest("", tuple(Film(f"{i}.png", "n", p, acquired=place) for i, (p, place) in enumerate(rows)))
    assert [film.site for film in partition(manifest, how="acquisition")] == ["Ulm", "Ulm", "Ulm", "Mainz", "Bonn", "Jena"]
    manifest = replace(manifest, films=(*manifest.films, Film("9.png", "n", "p9", acquired="Mainz")))
    parts = partition(manifest, how="acquisition", minimum=2)
    assert Counter(film.site for film in parts) == {OTHERS: 5, "Mainz": 2}
    assert "3 place(s) with fewer than 2 training patients" in parts.notes[-1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"how": "label_skw"}, "did you mean 'label_skew'"),
        ({"how": None}, "can be shared out by iid, acquisition"),
        ({"how": "label_skew", "alpha": 0}, "number above 0"),
        ({"how": "quantity_skew", "alpha": float("nan")}, "number above 0"),
        ({"how": "quantity_skew", "alpha": "1"}, "number above 0"),
        ({"how": "label_skew", "sites": 100}, "train split has 15 patient.*too few for 100 sites: choose fewer"),
        ({"how": "label_skew", "sites": 7}, "test split has 5 patient"),
        ({"how": "label_skew", "minimum": 6}, "too few for 3 sites with 6 patients each"),
        ({"sites": 0}, "at least one"),
        ({"sites": 2.5}, "whole number"),
        ({"minimum": 0}, "at least one training patient"),
        ({"how": "acquisition"}, "don't tell where they were taken"),
    ],
)
def test_what_cannot_be_shared_out_is_a_sentence(arguments, sentence):
    with pytest.raises(KitError, match=sentence):
        partition(study(20), **arguments)


def test_a_place_without_training_patients_is_a_sentence():
    films = (Film("1.png", "n", "p1", acquired="Ulm"), Film("2.png", "n", "p2", acquired="Jena", split="test"))
    with pytest.raises(KitError, match="Jena: fewer than 1 training"):
        partition(Manifest("", films), how="acquisition")


def test_a_site_can_do_without_validation_films():
    manifest = study(40)
    films = (*manifest.films, Film("v.png", "n", "pv", split="validation"))
    for how in ("iid", "label_skew", "quantity_skew"):
        assert len(partition(replace(manifest, films=films), 5, how).select(split="validation")) == 1


@pytest.mark.parametrize("sites", [1, 3, 50])
def test_the_figure_tells_every_sites_patients(sites):
    parts = partition(study(400), sites, "quantity_skew", alpha=1)
    axis = figures.who_has_what(parts).axes[0]
    written = Counter(text.get_text().strip() for text in axis.texts)
    told = Counter(f"{n} {'child' if n == 1 else 'children'}" for n in patients_at(parts).values())
    assert all(written[line] == n for line, n in told.items())
    assert len(axis.get_yticklabels()) == sites


def test_open_films_shares_out_anew_only_when_asked(tmp_path, hospitals):
    for i in range(8):
        (tmp_path / f"{i}.png").touch()
    rows = [f"{i}.png,{'ab'[i // 2 % 2]},p{i},{['Ulm', 'Jena'][i % 2]},{'test' if i > 3 else 'train'}" for i in range(8)]
    (tmp_path / "manifest.csv").write_text("\n".join(["path,label,patient,acquired,split", *rows]))
    assert open_films(tmp_path).sites == ("Jena", "Ulm")
    assert open_films(tmp_path, how="iid", sites=2).sites == ("A", "B")
    text = (tmp_path / "manifest.csv").read_text().replace("acquired", "remark")
    (tmp_path / "manifest.csv").write_text(text)
    assert open_films(tmp_path, sites=4).sites == ("A", "B", "C", "D")
    assert open_films(patients=10, sites=3).sites == ("A", "B", "C")
    with pytest.raises(KitError, match=r"belong to 3 sites .* and sites is 4: say how"):
        open_films(patients=10, sites=4)
    assert open_films(patients=10, how="label_skew", sites=4).sites == ("A", "B", "C", "D")


@pytest.mark.real_films
@pytest.mark.parametrize("how", [how for how in PARTITIONS if how != "acquisition"])
def test_fifty_sites_of_real_films(kermany, how):
    parts = partition(read_folder(kermany), 50, how, alpha=0.3, minimum=5).check()
    assert len(patients_at(parts)) == 50 and min(patients_at(parts).values()) >= 5
    assert len(patients_at(parts, "test")) == 50
