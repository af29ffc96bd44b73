"""The manifest keeps a patient's films together, on one side of the split and at one site."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia_kit.data import Film, Manifest, read_manifest, share_out, site_names
from primia_kit.data.partition import deal_patients, majority_labels
from primia_kit.errors import KitError


def make(*rows) -> Manifest:
    return Manifest("", tuple(Film(f"{i}.png", *row) for i, row in enumerate(rows)))


def test_where_films_were_taken_is_written_if_it_is_known(tmp_path):
    manifest = Manifest(tmp_path, (Film("a.png", "x", "p", acquired="Ulm"), Film("v.nii.gz#3", "y", "q")))
    assert read_manifest(manifest.to_csv()) == manifest
    Manifest(tmp_path, manifest.films[1:]).to_csv()
    assert (tmp_path / "manifest.csv").read_text().startswith("path,label,patient,site,split\n")


def test_films_inside_one_file_share_its_bytes(tmp_path):
    (tmp_path / "x.npz").write_bytes(bytes(900))
    (tmp_path / "#1.png").write_bytes(bytes(7))
    films = [Film(f"x.npz#train/{i}", "n", f"p{i}", "A" if i else "B") for i in range(3)]
    manifest = Manifest(tmp_path, (*films, Film("#1.png", "n", "q", "A")))
    assert manifest.file_bytes() == {"A": 607, "B": 300}
    assert manifest.file_of(films[0]) == tmp_path / "x.npz" and manifest.path_of(films[0]).name == "0"


def test_csv_round_trip(tmp_path):
    manifest = Manifest(tmp_path, (Film("a, b.png", "normal", 'p "1"', "A", "train"), Film("ü.png", "viral", "p2", "B", "test")))
    assert read_manifest(manifest.to_csv()) == manifest


def test_a_csv_from_a_spreadsheet_needs_three_columns_only(tmp_path):
    (tmp_path / "m.csv").write_text("\ufeffpatient,label,path,remark\np1,x,a.png,hello\np2,y,b.png,\n", encoding="utf-8")
    manifest = read_manifest(tmp_path / "m.csv")
    assert [(f.path, f.label, f.site, f.split) for f in manifest] == [("a.png", "x", "", "train"), ("b.png", "y", "", "train")]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,label\na.png,x\n", "no column 'patient'"),
        ("path,label,patient\na.png,,p\n", "line 2: no label"),
        ("path,label,patient,split\na.png,x,p,trian\n", "unknown split 'trian'"),
        ("path,label,patient,split\na.png,x,p,train\nb.png,x,p,test\n", "trained on and tested on"),
        ("path,label,patient,site\na.png,x,p,A\nb.png,x,p,B\n", "more than one site"),
        ("path,label,patient\na.png,x,p\na.png,x,p\n", "in two rows"),
        ("path,label,patient\n", "holds no film"),
        ("", "no column"),
    ],
)
def test_a_bad_csv_is_a_sentence(tmp_path, text, sentence):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(KitError, match=sentence):
        read_manifest(tmp_path / "m.csv")


def test_a_binary_file_is_no_manifest(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00\x80" * 20)
    with pytest.raises(KitError, match="Can't read the manifest"):
        read_manifest(tmp_path / "m.csv")


def test_classes_are_in_the_case_studys_order():
    assert make(("viral", "p1"), ("normal", "p2")).classes == ("normal", "viral")
    assert make(("viral", "p1"), ("covid", "p2")).classes == ("covid", "viral")


def test_counts_and_selection():
    manifest = make(("normal", "p1", "A"), ("normal", "p1", "A"), ("viral", "p2", "A", "test"), ("viral", "p3", "B"))
    assert len(manifest.select(site="A", split="train")) == 2
    table = manifest.counts()
    assert table.loc[("A", "train")].to_dict() == {"normal": 2, "viral": 0, "films": 2, "patients": 1}
    assert list(table.index) == [("A", "train"), ("A", "test"), ("B", "train")]


def test_majority_label():
    assert majority_labels(make(("v", "p"), ("b", "p"), ("v", "p"), ("v", "q"), ("b", "q"))) == {"p": "v", "q": "b"}


patients = st.lists(st.tuples(st.sampled_from(["n", "b", "v"]), st.integers(1, 3)), min_size=30, max_size=80)


@given(patients, st.integers(1, 9), st.integers(0, 5))
def test_sharing_out_keeps_patients_whole_and_hands_even(children, count, seed):
    rows = [
        (label, f"p{i}", "", "test" if i % 3 == 0 else "train") for i, (label, films) in enumerate(children) for _ in range(films)
    ]
    shared = share_out(make(*rows), count, seed)
    assert [replace(film, site="") for film in shared] == list(make(*rows))  # nothing else has changed
    assert shared.check().sites == site_names(count)
    for split in ("train", "test"):
        sizes = Counter({film.patient: film.site for film in shared.select(split=split)}.values())
        assert max(sizes.values()) - min(sizes.values()) <= 1
        for label in "nbv":  # each label is spread as evenly as whole patients allow
            spread = Counter({f.patient: f.site for f in shared.select(split=split) if f.label == label}.values())
            assert max(spread.values(), default=0) - min((spread[s] for s in shared.sites), default=0) <= 1


@given(st.integers(5, 200), st.sampled_from([0.1, 0.2, 1 / 3, 0.5]))
def test_dealing_meets_the_shares(count, share):
    dealt = Counter(
        deal_patients(make(*[("n", f"p{i}") for i in range(count)]), {"train": 1 - share, "test": share}, 0, "x").values()
    )
    assert abs(dealt["test"] - share * count) <= 1


def test_sharing_out_depends_on_the_seed():
    manifest = make(*[("n", f"p{i}") for i in range(40)])
    assert share_out(manifest, 3, 0) == share_out(manifest, 3, 0) != share_out(manifest, 3, 1)


def test_too_many_sites_is_a_sentence():
    with pytest.raises(KitError, match=r"train split has 2 patient\(s\), too few for 3 sites"):
        share_out(make(("n", "p1"), ("v", "p2")), 3, 0)
    with pytest.raises(KitError, match="at least one"):
        share_out(make(("n", "p1")), 0, 0)


def test_names_of_many_sites():
    assert site_names(3) == ("A", "B", "C")
    assert site_names(30)[:2] == ("H01", "H02") and len(set(site_names(30))) == 30
