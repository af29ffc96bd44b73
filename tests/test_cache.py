"""Films from the cache are the same to the bit, and nothing that happens to it hurts a run."""

import errno
import os
import shutil
import stat
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from primia_kit.data import Film, Manifest, film_cache, images, load_films, partition, pool_films, read_folder, warning_lines
from primia_kit.data.film_cache import FilmCache
from primia_kit.errors import KitError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of the cache, empty."""
    monkeypatch.setenv("PRIMIA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "films"


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(8):
        Image.fromarray(rng.integers(0, 256, (30, 20 + i), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return Manifest(tmp_path, tuple(Film(f"{i}.png", "ab"[i % 2], f"p{i}") for i in range(8)))


@pytest.fixture
def decoded(monkeypatch):
    """The paths that were decoded."""
    paths, square = [], images._square
    monkeypatch.setattr(images, "_square", lambda path, *form: paths.append(path.name) or square(path, *form))
    return paths


def load(manifest, **options):
    return load_films(manifest, **{"size": 16, "geometry": "pad"} | options).images


def test_a_film_is_warned_about_from_the_cache_as_well(cache, tmp_path, decoded):
    """A 12-bit picture in a 16-bit file decodes without an error and is nearly black."""
    for name, white in (("faint", 4095), ("fine", 65535)):
        Image.fromarray(np.linspace(0, white, 256).reshape(16, 16).astype(np.uint16)).save(tmp_path / f"{name}.png")
    manifest = Manifest(tmp_path, tuple(Film(f"{name}.png", name, name) for name in ("faint", "fine")))
    first = load_films(manifest, size=16, geometry="pad")
    again = load_films(manifest, size=16, geometry="pad")
    assert len(decoded) == 2
    assert first.warnings == again.warnings and list(first.warnings.values()) == [("faint.png",)]
    assert pool_films([first, again]).warnings == {next(iter(first.warnings)): ("faint.png", "faint.png")}
    (line,) = warning_lines([first, again])
    assert line.startswith("2 film(s): The picture is almost black: its brightest pixel has 6% of white")
    assert "faint.png" not in line  # a name may be a patient's


def test_a_second_run_decodes_nothing_and_gets_the_same_bits(cache, folder, decoded):
    plain = load(folder, cache=False)
    assert len(decoded) == 8 and not cache.exists()
    assert torch.equal(load(folder), plain) and len(decoded) == 16
    assert torch.equal(load(folder), plain) and len(decoded) == 16
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_the_environment_switches_it_off(cache, folder, monkeypatch):
    monkeypatch.setenv("PRIMIA_NO_CACHE", "1")
    load(folder)
    assert not cache.exists()


def test_films_are_found_by_content(cache, folder, decoded):
    first = load(folder)
    moved = folder.root / "elsewhere"
    moved.mkdir()
    films = []
    for film in reversed(folder.films):
        shutil.copy(folder.path_of(film), moved / f"new{film.path}")
        films.append(Film(f"new{film.path}", film.label, film.patient))
    assert torch.equal(load(Manifest(moved, tuple(films))), first.flip(0)) and len(decoded) == 8
    load(folder, geometry="stretch"), load(folder, size=8)  # other pixels
    assert len(decoded) == 24


def test_a_changed_film_of_the_same_size_and_date_is_decoded_again(cache, folder, decoded):
    load(folder)
    path = folder.root / "0.png"
    before = path.stat()
    pixels = np.asarray(Image.open(path)).copy()
    path.write_bytes(b"")  # in place: the inode stays, too
    Image.fromarray(255 - pixels).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = load(folder)
    assert decoded[8:] == ["0.png"]
    assert torch.equal(changed, load(folder, cache=False))


def test_another_decoder_finds_nothing(cache, folder, decoded, monkeypatch):
    load(folder)
    monkeypatch.setattr(film_cache, "decoder_version", lambda: "other")
    load(folder)
    assert len(decoded) == 16


def test_unreadable_films_are_named_with_and_without(cache, folder):
    load(folder)
    (folder.root / "3.png").write_bytes(b"not a picture")
    (folder.root / "4.png").unlink()
    for cached in (True, False):
        with pytest.raises(KitError, match=r"(?s)2 of 8 films can't be read:.*3\.png.*4\.png"):
            load(folder, cache=cached)
        assert len(load(folder, cache=cached, unreadable="skip")) == 6


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_pack_is_never_believed(cache, folder, data):
    plain = load(folder, cache=False)
    shutil.rmtree(cache, ignore_errors=True)
    load(folder)
    (pack,) = cache.rglob("*.films")
    content = bytearray(pack.read_bytes())
    how = data.draw(st.sampled_from(["cut", "flip", "lengthen", "count"]))
    if how == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    elif how == "flip":
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "lengthen":
        content += b"more"
    else:
        content[8:16] = data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
    pack.write_bytes(content)
    assert torch.equal(load(folder), plain)
    assert torch.equal(load(folder), plain)  # and what was written in its stead


def test_a_pack_cut_short_while_it_is_open(cache, folder):
    load(folder)
    opened = FilmCache(16, "pad")
    (pack,) = cache.rglob("*.films")
    (key, *_) = opened._places
    assert opened.get(key) is not None
    os.truncate(pack, 600)
    assert FilmCache(16, "pad").get(key) is None and opened.get(key) is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_loses_the_cache_alone(cache, folder, monkeypatch, caplog, code):
    def full(path, content):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(film_cache, "write_atomically", full)
    assert torch.equal(load(folder), load(folder, cache=False))
    assert "aren't kept" in caplog.text and not list(cache.rglob("*.films"))


def test_the_last_gigabyte_of_a_disk_is_left_to_others(cache, folder, monkeypatch):
    monkeypatch.setattr(film_cache.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40 - 2**20, 2**20))
    load(folder)
    assert not list(cache.rglob("*.films"))


def test_a_cache_folder_that_is_a_file_or_somebody_elses(cache, folder, monkeypatch):
    cache.parent.mkdir()
    cache.touch()
    plain = load(folder, cache=False)
    assert torch.equal(load(folder), plain)
    cache.unlink()
    monkeypatch.setattr(film_cache.os, "getuid", lambda: 12345678)
    assert torch.equal(load(folder), plain) and not list(cache.rglob("*.films"))


def test_the_bound_holds_and_the_oldest_go_first(tmp_path):
    size, each = 16, 16 * 16 * 4
    bound = 10 * each
    for i in range(12):
        films = FilmCache(size, "pad", folder=tmp_path / "films", bound=bound)
        films.put(bytes([i]) * 32, np.full((size, size), i / 12, np.float32))
        films.flush()
        for pack in (tmp_path / "films").rglob("*.films"):  # as if a second had passed
            status = pack.stat()
            os.utime(pack, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))
        assert sum(p.stat().st_size for p in (tmp_path / "films").rglob("*") if p.is_file()) <= bound
    kept = [i for i in range(12) if FilmCache(size, "pad", folder=tmp_path / "films").get(bytes([i]) * 32) is not None]
    assert kept == list(range(12 - len(kept), 12)) and len(kept) >= 8


def test_what_a_killed_writer_left_is_cleared_away(tmp_path):
    films = FilmCache(4, "pad", folder=tmp_path / "films")
    old, new = (films._packs / f".{name}.part" for name in ("old", "new"))
    old.touch(), new.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    films.put(bytes(32), np.zeros((4, 4), np.float32))
    films.flush()
    assert new.exists() and not old.exists()


def test_a_stopped_run_keeps_what_it_decoded(cache, folder, decoded):
    def stop(done, total, what):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(folder, progress=stop)
    before = len(decoded)
    load(folder)
    assert len(decoded) - before <= 2


@pytest.mark.real_films
def test_real_films_are_the_same_from_the_cache_in_any_partition(cache, kermany, decoded):
    manifest = read_folder(kermany).select(split="test")
    plain = load(manifest, geometry="stretch", cache=False)
    load(manifest, geometry="stretch")
    before = len(decoded)
    assert torch.equal(load(manifest, geometry="stretch"), plain)
    whole = read_folder(kermany)
    for site in partition(whole, 4, "label_skew", seed=1).sites:
        load(partition(whole, 4, "label_skew", seed=1).select(site=site, split="test"), geometry="stretch")
    assert len(decoded) == before
