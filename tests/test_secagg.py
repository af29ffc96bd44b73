"""The protocol: whoever drops out whenever, the sum is right or there is none."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primia_kit.errors import KitError
from primia_kit.secagg import (
    AggregationAborted,
    Field,
    History,
    Identity,
    PlainSum,
    SecureSum,
    Server,
    Transcript,
    default_threshold,
)
from primia_kit.secagg.messages import Phase
from primia_kit.secagg.secure_sum import DROPOUTS

from .secagg_rounds import RUN, agree, clients_of, relay, true_sum

FIELDS = {"weight": Field(64.0), "w": Field(4.0), "big": Field(2.0**30, 2.0**-8, words=2)}


def contributions(sites, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        site: {
            "weight": torch.tensor(float(i + 1)),
            "w": torch.rand(3, 2, generator=generator) * 8 - 4,
            "big": torch.rand((), generator=generator, dtype=torch.float64) * 2**30,
        }
        for i, site in enumerate(sites)
    }


def assert_equal_sums(total, given, survivors):
    for name, field in FIELDS.items():
        resolution = field.fitted(name, len(given)).resolution
        exact = sum(given[site][name].double() for site in survivors)
        assert (total[name] - exact).abs().max() <= len(given) * resolution / 2 + 1e-6, name


def expected_survivors(sites, dropouts, least=3):
    """Who is in the sum, or None if it must not be opened: worked out from the paper, not from the code."""
    t = default_threshold(len(sites))
    stays = {site: list(DROPOUTS).index(dropouts[site]) if site in dropouts else 99 for site in sites}
    in_phase = [[site for site in sites if stays[site] > phase] for phase in range(5)]
    if min(map(len, in_phase[:3])) < max(t, least) or min(map(len, in_phase)) < t:
        return None
    return tuple(in_phase[2])


def check(sites, dropouts, **options):
    given = contributions(sites)
    aggregator = SecureSum(dropouts=dropouts, **options)
    survivors = expected_survivors(sites, dropouts, aggregator.min_survivors)
    if survivors is None:
        with pytest.raises(AggregationAborted, match=r"secure sum (is given up|can't be opened): \d of \d sites"):
            aggregator.sum("x", given, FIELDS)
        assert aggregator.survivors == ()
        assert not any("the sum of" in sentence for sentence in aggregator.transcript.sentences())
    else:
        assert_equal_sums(aggregator.sum("x", given, FIELDS), given, survivors)
        assert aggregator.survivors == survivors
    return survivors


@pytest.mark.parametrize("phase", DROPOUTS)
def test_every_subset_of_five_sites_drops_out(phase):
    outcomes = [
        check("ABCDE", dict.fromkeys(subset, phase)) for size in range(6) for subset in itertools.combinations("ABCDE", size)
    ]
    assert sum(outcome is not None for outcome in outcomes) == 6  # nobody, and each one alone: t is 4


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 9), st.dictionaries(st.sampled_from("ABCDEFGHI"), st.sampled_from(list(DROPOUTS)), max_size=4))
def test_any_sites_drop_out_at_any_time(count, dropouts):
    sites = "ABCDEFGHI"[:count]
    check(sites, {site: phase for site, phase in dropouts.items() if site in sites})


@settings(max_examples=30, deadline=None)
@given(
    sites=st.integers(3, 7),
    shapes=st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4),
    exponent=st.integers(-15, 15),
    seed=st.integers(0, 99),
)
def test_secure_sums_equal_plain_sums(sites, shapes, exponent, seed):
    generator = torch.Generator().manual_seed(seed)
    scale = 2.0**exponent
    fields = {f"p{i}": Field(scale) for i in range(len(shapes))}
    given = {
        f"S{k}": {f"p{i}": (torch.rand(shape, generator=generator) * 2 - 1) * scale for i, shape in enumerate(shapes)}
        for k in range(sites)
    }
    plain, secure = PlainSum().sum("x", given, fields), SecureSum().sum("x", given, fields)
    for name in plain:
        most = sites * fields[name].fitted(name, sites).resolution / 2 + sites * scale * 2e-7
        assert (secure[name] - plain[name]).abs().max() <= most and secure[name].dtype == plain[name].dtype


@pytest.mark.parametrize("sites", [3, 4, 17, 50])
def test_many_sites(sites):
    names = [f"S{i:02}" for i in range(sites)]
    check(names, {} if sites == 3 else {names[1]: "before masking"}) or pytest.fail("no sum")


@pytest.mark.parametrize(("sites", "threshold"), [(2, 2), (3, 2), (4, 3), (5, 4), (6, 5), (9, 7), (10, 7), (50, 34)])
def test_the_threshold(sites, threshold):
    assert default_threshold(sites) == threshold
    if sites > 3:
        assert 3 * threshold > 2 * sites  # a lying server with fewer than n/3 hospitals on its side learns nothing


@pytest.mark.parametrize("phase", DROPOUTS)
def test_with_three_sites_a_dropout_needs_the_unsafe_option(phase):
    in_sum = "ABC" if phase in ("after masking", "during unmasking") else "AB"
    assert check("ABC", {"C": phase}) == (tuple("ABC") if in_sum == "ABC" else None)
    assert check("ABC", {"C": phase}, unsafe_two_survivors=True) == tuple(in_sum)


def test_the_unsafe_option_is_in_the_transcript():
    aggregator = SecureSum(unsafe_two_survivors=True)
    assert_equal_sums(aggregator.sum("x", given := contributions("AB"), FIELDS), given, "AB")
    assert "UNSAFE" in aggregator.transcript.sentences()[0]


@pytest.mark.parametrize(
    ("options", "sites", "sentence"),
    [
        ({}, "AB", "2 sites contribute, and a secure sum needs 3.*PlainSum.*unsafe_two_survivors"),
        ({}, "A", "1 sites contribute"),
        ({}, "", "0 sites contribute"),
        ({"min_survivors": 2}, "ABC", "min_survivors is 2, the least is 3"),
        ({"min_survivors": 1, "unsafe_two_survivors": True}, "ABC", "min_survivors is 1, the least is 2"),
        ({"min_survivors": 4}, "ABC", "3 sites contribute, and a secure sum needs 4"),
        ({"dropouts": {"C": "in time"}}, "ABC", "can't drop out 'in time'"),
        ({"dropouts": {"D": "before keys"}}, "ABC", "Site D can't drop out"),
        ({"identities": {"A": Identity.generate()}}, "ABC", "site B has no identity"),
    ],
)
def test_what_hides_nothing_is_refused(options, sites, sentence):
    with pytest.raises(KitError, match=sentence):
        SecureSum(**options).sum("x", contributions(sites), FIELDS)


def test_more_survivors_can_be_demanded():
    with pytest.raises(AggregationAborted, match=r"6 of 7 sites sent a vector .* and 7 are needed"):
        SecureSum(min_survivors=7, dropouts={"C": "before masking"}).sum("x", contributions("ABCDEFG"), FIELDS)


def test_fields_are_needed():
    with pytest.raises(KitError, match="needs `fields`"):
        SecureSum().sum("x", contributions("ABC"))


def test_a_round_is_tried_again_over_the_same_survivors_alone():
    """Else the difference of the two sums would be a single contribution."""
    aggregator = SecureSum()
    aggregator.sum("x", contributions("ABCD"), FIELDS)
    aggregator.sum("x", contributions("ABCD"), FIELDS)
    aggregator.dropouts = {"D": "before masking"}
    with pytest.raises(AggregationAborted, match=r"x: site A leaves .* signed another list of survivors"):
        aggregator.sum("x", contributions("ABCD"), FIELDS)
    aggregator.sum("y", contributions("ABCD"), FIELDS)
    SecureSum(aggregator.identities).sum("x", contributions("ABC"), FIELDS)  # another run


def test_an_attempt_that_opened_nothing_binds_nobody():
    aggregator = SecureSum(dropouts={"B": "before masking", "C": "before masking"})
    with pytest.raises(AggregationAborted, match="2 of 4 sites sent a vector"):
        aggregator.sum("x", contributions("ABCD"), FIELDS)
    aggregator.dropouts = {"D": "before masking"}
    aggregator.sum("x", contributions("ABCD"), FIELDS)
    assert aggregator.survivors == ("A", "B", "C")


def test_a_restart_doesnt_make_a_hospital_forget(tmp_path):
    """Nor does a line that a crash cut off, nor another process with the same file."""
    path, attempts = tmp_path / "new" / "rounds", [bytes([i]) * 16 for i in range(3)]
    first, beside = History(path), History(path)
    first.begin(RUN, "round 1", attempts[0])
    assert first.signs(RUN, "round 1", "ABC")
    with pytest.raises(KitError, match=r"round 1: .* before"):
        beside.begin(RUN, "round 1", attempts[0])
    path.write_text(path.read_text() + "begun 12")
    first.begin(RUN, "round 1", attempts[1])
    again = Identity.generate(path).history
    with pytest.raises(KitError, match=r"round 1: .* before"):
        again.begin(RUN, "round 1", attempts[1])
    again.begin(RUN, "round 2", attempts[0])
    again.begin(bytes(16), "round 1", attempts[0])
    assert again.signs(RUN, "round 1", "CBA") and not again.signs(RUN, "round 1", "ABCD")
    assert again.signs(RUN, "round 2", "ABCD") and again.signs(bytes(16), "round 1", "ABCD")


def test_contributions_are_asked_for_one_at_a_time():
    """Fifty sites' updates needn't be in memory together."""

    class OnDemand(dict):
        def __getitem__(self, site):
            asked.append(site)
            return super().__getitem__(site)

    asked = []
    SecureSum().sum("x", OnDemand(contributions("ABCD")), FIELDS)
    assert asked == ["A", "A", "B", "C", "D"]  # the first also tells the layout


def test_the_transcript_counts_every_byte():
    """Against what really went up, message by message."""
    agreement, transcript, counted = agree(4), Transcript(), dict.fromkeys("ABCD", 0)
    server = Server(agreement, transcript)

    def up(phase, site, message):
        counted[site] += len(message)
        return [message]

    relay(server, clients_of(agreement), up=up)
    assert {site: transcript.bytes_from(site) for site in "ABCD"} == counted
    assert np.array_equal(server.result(), true_sum(range(4)))
    table = transcript.table()
    assert len(table) == 4 * len(Phase) + 2 and list(table["for the server"].unique()) == ["public", "opaque", "in clear"]


def test_the_transcript_keeps_messages_only_if_told():
    given = contributions("ABC")
    silent, kept = SecureSum(), SecureSum(transcript=Transcript(keep_messages=True))
    for aggregator in (silent, kept):
        aggregator.sum("x", given, FIELDS)
    assert kept.transcript.masked_words("x", "B").shape == (9,)  # 1 + 6 + 2
    with pytest.raises(LookupError):
        silent.transcript.masked_words("x", "B")


def test_the_contributions_stay_as_they_were():
    given = contributions("ABC")
    copies = {site: {name: part.clone() for name, part in parts.items()} for site, parts in given.items()}
    SecureSum().sum("x", given, FIELDS)
    assert all(given[site][name].equal(copies[site][name]) for site in copies for name in copies[site])
