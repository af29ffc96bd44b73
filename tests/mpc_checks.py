"""What must hold of every word that is sent or dealt, and of every mask: for the protocol, and against broken ones."""

import secrets
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np

from primia_kit.mpc import expansion, local_channels, unpack_words
from primia_kit.mpc.comparison import tuples
from primia_kit.mpc.dealt import Layout
from primia_kit.mpc.program import PRIVATE
from primia_kit.mpc.rounds import rounds

from .mpc_programs import Builder, OutsourcedParties, Parties, Recorder, random_weights

BITS = 38
DEVIATIONS = 7  # of a uniform bit one in 10^11; some hundred thousand bits are looked at


def program(reveal="logits"):
    """Private layers, all kinds of comparisons, a value masked twice over; hundreds of words a field."""
    b = Builder((8, 8, 1))
    x = b.conv("input", 8)
    x = b.pool("max_pool", b.same("truncate", x, shift=8), 2, 1, 1)
    x = b.same("mask", b.same("relu", x, shift=0))
    y = b.same("mask", b.same("relu6", b.conv(x, 8), shift=8))
    y = b.join("add", [b.conv(y, 8), x], [0, 8])
    y = b.same("mask", b.same("relu", y, shift=8))
    return b.program(b.same("truncate", b.conv(y, 4), shift=8), reveal)


def cases(p):
    """Images of zeros and of the largest value, weights of zeros and large ones of either sign."""
    zero = {name: (np.zeros_like(w), np.zeros_like(bias)) for name, (w, bias) in random_weights(p).items()}
    large = random_weights(p, size=64)
    low, high = (np.full((6, *p.ops[0].shape), value, np.uint64) for value in (0, (1 << 12) - 1))
    return [(images, weights) for images in (low, high) for weights in (zero, large)]


def fields(parties, images, timeout=60):
    """(operation, part, number, sender) -> (words, bits) of all that was sent, pieces joined, as it was on the wire."""
    one, other = (Recorder(channel) for channel in local_channels(timeout))
    masked = {}

    def keep(op, seconds, sent, received, view):
        if op.kind in ("input", "mask"):
            masked[op.name, "x_1", 0, None] = view.share.reshape(-1).copy(), parties.program.bits

    parties.infer(images, channels=(one, other), on_op=(None, keep))
    streams, at = [b"".join(channel.messages) for channel in (one, other)], [0, 0]
    found, widths, done = defaultdict(list), {}, Counter()
    for field in parties.data.dialogue(len(images)).fields:
        body = streams[field.sender][at[field.sender] :][: field.size]
        at[field.sender] += field.size
        used, last = -(-field.count * field.bits // 8), field.count * field.bits % 8
        assert not any(body[used:]) and (not last or not body[used - 1] >> last), "bits beyond the last word"
        round_of = done[field.op, field.sender] if field.part in "cpt" else 0
        done[field.op, field.sender] += field.part == "t"
        key = field.op, field.part, round_of, field.sender
        found[key].append(unpack_words(body[:used], field.bits, field.count))
        widths[key] = field.bits
    assert at == [len(stream) for stream in streams], "more was sent than the dialogue foresees"
    return {key: (np.concatenate(words), widths[key]) for key, words in found.items()} | masked


def seen(parties, images):
    """What was sent, and what its receivers make of it: the masked values x_1, or e, and c, p, t as they're opened."""
    found = fields(parties, images)
    for op, part, number, sender in list(found):
        if sender == 0 and (op, part, number, 1) in found:
            (one, bits), (other, _) = (found[op, part, number, party] for party in (0, 1))
            found[op, part, number, "opened"] = (one ^ other if part in "pt" else one + other), bits
    return found


def assert_uniform(words, bits, what):
    """Each bit is 1 in half of the words, within seven standard deviations."""
    shares = np.array([(words >> np.uint64(bit) & np.uint64(1)).mean() for bit in range(bits)])
    worst = np.abs(shares - 0.5).max() * 2 * words.size**0.5
    assert worst < DEVIATIONS, f"{what}: a bit is {worst:.0f} standard deviations from even"


def check_messages(parties, images):
    """All that is seen is uniform, and so is the difference of any two alike, of two operations or of two inferences."""
    found = {(*key, repeat): value for repeat in range(2) for key, value in seen(parties, images).items()}
    for key, (words, bits) in found.items():
        assert_uniform(words, bits, key)
    for (one, (a, bits)), (other, (b, _)) in combinations(found.items(), 2):
        if one[1] == other[1] and one[3] == other[3] and a.size == b.size:
            assert_uniform(a - b, bits, (one, other))


def check_dealt(parties, batch=6):
    """All that the model owner is dealt is uniform, and the difference of two inferences too."""
    p, dealt = parties.program, []
    for _ in range(2):
        seeds = secrets.token_bytes(32), secrets.token_bytes(32)
        dealt.append(parties.provider.deal(*seeds, batch).copy())
    layout = Layout(p, batch)
    for op in p.ops:
        parts = [(op.name, "product", {"product": p.bits}, batch * op.size)] if op.kind in PRIVATE else []
        parts += [(op.name, i, one.tuples.widths(p.bits), one.count) for i, one in enumerate(rounds(p, op, batch))]
        for name, number, widths, count in parts:
            for body in (dealt[0], dealt[1], None):
                at = layout.parts[name, number].start
                for field, bits in widths.items():
                    size = -(-count * bits // 8)
                    words = [unpack_words(d[at : at + size], bits, count) for d in (dealt if body is None else [body])]
                    assert_uniform(words[0] if len(words) == 1 else words[0] ^ words[1], bits, (name, number, field))
                    at += -(-count * bits // 64) * 8
                assert at == layout.parts[name, number].stop


class Uses:
    """Which streams a party expands, and which stretches of them."""

    def __init__(self, monkeypatch):
        self.keys, self.stretches = Counter(), defaultdict(list)
        derive, fill = expansion.stream_key, expansion.fill

        def recorded_key(seed, *purpose):
            key = derive(seed, *purpose)
            self.keys[seed, purpose] += 1
            return key

        def recorded_fill(out, key, start=0):
            self.stretches[key].append((start, start + out.nbytes))
            return fill(out, key, start)

        for module in (expansion, tuples):
            monkeypatch.setattr(module, "stream_key", recorded_key)
            monkeypatch.setattr(module, "fill", recorded_fill)

    def of(self, work, seed=None):
        """Run `work`; the purposes that it expanded. Raises AssertionError if anything was expanded twice."""
        self.keys.clear()
        self.stretches.clear()
        work()
        assert set(self.keys.values()) == {1}, "a stream was expanded twice"
        for stretches in self.stretches.values():
            for (_, stop), (start, _) in zip(sorted(stretches), sorted(stretches)[1:]):
                assert stop <= start, "two fields lie on the same stretch of a stream"
        assert len(self.stretches) == len(self.keys), "two purposes have the same key"
        return {purpose for used, purpose in self.keys if seed in (None, used)}


def check_uses(monkeypatch, p, kind=Parties):
    """Both computing parties and the provider expand every stream that the program needs once, and no others."""
    parties, outsourced = kind(p, random_weights(p)), kind is OutsourcedParties
    data_seed, model_seed = secrets.token_bytes(32), secrets.token_bytes(32)
    dealt = parties.provider.deal(data_seed, model_seed, 2).copy()
    uses = Uses(monkeypatch)
    own = {(op.name, "mask") for op in p.ops if op.kind in ("input", "mask")}
    need = own | {(op.name, "product") for op in p.ops if op.kind in PRIVATE}
    compare = {(op.name, number) for op in p.ops for number, _ in enumerate(rounds(p, op, 2))}
    masks = {(*purpose, "masks") for purpose in compare} | (own if outsourced else set())
    made = []
    assert uses.of(lambda: made.append(parties.data.prepare(data_seed, 2))) == need | compare
    assert uses.of(lambda: made.append(parties.model.prepare(model_seed, dealt=dealt, batch=2))) == masks

    def deal():
        parties.provider.deal(data_seed, model_seed, 2)

    assert uses.of(deal, data_seed) == need | compare and uses.of(deal, model_seed) == masks
    tuples_of = [dict(prepared._material.tuples) for prepared in made]
    uses.keys.clear()
    images = np.zeros((2, *p.ops[0].shape), np.uint64)
    parties.infer(images, made)
    fresh = {("image",), ("answer",)} if outsourced else set()  # from seeds of this inference that nobody has dealt
    assert {purpose for _, purpose in uses.keys} == fresh, "an inference expands nothing that was dealt"
    for found in tuples_of:
        rooms = [one.masks for one in found.values()]
        assert not any(np.shares_memory(a, b) for a, b in combinations(rooms, 2))
