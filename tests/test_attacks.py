"""The attacks do what they say, and no better than chance where there is nothing to find."""

import pytest
import torch

from primia_kit.attacks import Linkage, link_films, linkage_table, returning_patients
from primia_kit.data import FilmSet
from primia_kit.errors import KitError


def films(images, patients):
    return FilmSet(images, torch.zeros(len(images), dtype=torch.int64), tuple(patients), ("a", "b"), "pad")


def test_linkage_finds_the_films_that_are_alike():
    generator = torch.Generator().manual_seed(0)
    children = torch.rand(20, 1, 8, 8, generator=generator)
    again = 0.5 * children[:5] + 0.2 + 0.01 * torch.rand(5, 1, 8, 8, generator=generator)  # another exposure
    found = link_films(films(torch.cat([children, again]), [f"p{i}" for i in (*range(20), *range(5))]))
    assert (found.patients, found.probes, found.chance) == (20, 5, 0.05)
    assert found.first == found.among_five == 1
    assert found.pairs == tuple((20 + i, i, i) for i in range(5))


def test_linkage_of_noise_is_chance():
    generator = torch.Generator().manual_seed(0)
    found = link_films(films(torch.rand(2000, 1, 4, 4, generator=generator), [f"p{i % 1000}" for i in range(2000)]))
    assert found.first < 0.01 and 0 < found.among_five < 0.02


def test_linkage_of_synthetic_children_beats_chance():
    """The children of the generator share ribs, heart and lungs between their films, and no more."""
    from primia_kit.data import load_films, synthetic_hospitals

    manifest = synthetic_hospitals(patients=40).select(site="A")
    found = link_films(load_films(manifest, size=32, geometry="pad"))
    assert found.among_five > 2 * 5 * found.chance


def test_the_table_says_how_sure_a_rate_is():
    linkage = Linkage(patients=200, probes=66, first=3 / 66, among_five=8 / 66, chance=1 / 200, pairs=())
    row = linkage_table({"B": linkage}).loc["B"]
    assert (row["children"], row["second films"], row["right"]) == (200, 66, 3)
    z, n, p = 1.959964, 66, 3 / 66  # Wilson's interval, by hand
    middle, half = (p + z**2 / 2 / n) / (1 + z**2 / n), z * (p * (1 - p) / n + z**2 / 4 / n**2) ** 0.5 / (1 + z**2 / n)
    assert row["low"] == pytest.approx(middle - half, abs=1e-6) and row["high"] == pytest.approx(middle + half, abs=1e-6)


def test_a_table_of_nothing_is_empty():
    assert linkage_table({}).empty and returning_patients(films(torch.rand(3, 1, 4, 4), "abc")) == 0


def test_without_second_films_there_is_nothing_to_link():
    with pytest.raises(KitError, match="No patient has two films"):
        link_films(films(torch.rand(3, 1, 4, 4), "abc"))
