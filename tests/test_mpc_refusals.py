"""Programs, weights, images and messages that no inference should begin or go on with."""

from dataclasses import replace

import numpy as np
import pytest

from primia_kit.errors import KitError
from primia_kit.mpc import DATA_OWNER, MODEL_OWNER, DataOwner, ModelOwner, Op, Program, local_channels

from .mpc_programs import Builder, Parties, random_weights, words


def test_what_does_not_fit_is_a_sentence():
    b = Builder((8, 8, 1))
    program = b.program(b.same("relu", b.conv("input", 4), shift=8))
    weights = random_weights(program)
    parties = Parties(program, weights)
    ours, _ = parties.prepare()
    with pytest.raises(KitError, match=r"images are uint64 \[1, 8, 8, 1\]"):
        parties.data.infer(ours, words((2, 8, 8, 1)), local_channels()[0])
    ours.use()  # it was not used up by a wrong image
    with pytest.raises(KitError, match="bytes are dealt, but 100 came"):
        parties.model.prepare(bytes(32), bytes(100))
    with pytest.raises(KitError, match="inference of 0 images"):
        parties.data.prepare(bytes(32), 0)
    with pytest.raises(KitError, match="δ for this program takes"):
        DataOwner(program, bytes(5))
    with pytest.raises(KitError, match="differ in conv1"):
        ModelOwner(program, {})
    with pytest.raises(KitError, match=r"conv1: its bias: int64 \[4\] are needed"):
        ModelOwner(program, {"conv1": (weights["conv1"][0], np.zeros(3, np.int64))})
    with pytest.raises(KitError, match="conv1: weights lie below"):
        ModelOwner(program, {"conv1": (weights["conv1"][0] << 9, weights["conv1"][1])})


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(shape=(7, 8, 4)), "conv1: a conv of such inputs has shape"),
        (dict(fraction_bits=15), "conv1: its value has 16 fraction bits"),
        (
            dict(attributes=dict(kernel=[9, 9], stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1, weight_bits=8)),
            "doesn't fit",
        ),
        (
            dict(attributes=dict(kernel=3, stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=1, weight_bits=8)),
            "describe no conv",
        ),
    ],
)
def test_a_program_that_does_not_add_up_is_refused(change, word):
    b = Builder((8, 8, 1))
    program = b.program(b.same("relu", b.conv("input", 4), shift=8))
    op = program.ops[1]
    wrong = Op(
        **{
            **dict(name=op.name, kind=op.kind, inputs=op.inputs, shape=op.shape, fraction_bits=16, attributes=op.attributes),
            **change,
        }
    )
    with pytest.raises(KitError, match=word):
        ModelOwner(Program(38, (program.ops[0], wrong, *program.ops[2:])), {})


@pytest.mark.parametrize("name", ["", 1, None, ["a"]])
def test_operations_have_names(name):
    b = Builder((8, 8, 1))
    program = b.program(b.same("relu", b.conv("input", 4), shift=8))
    with pytest.raises(KitError, match="named by non-empty strings"):
        Program(38, (replace(program.ops[0], name=name), *program.ops[1:]))
    with pytest.raises(KitError, match="named by non-empty strings"):
        Program(38, (program.ops[0], replace(program.ops[1], name=name), *program.ops[2:]))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_json_does_not_have_are_refused(constant):
    b = Builder((8, 8, 1))
    text = b.program(b.same("relu", b.conv("input", 4), shift=8)).to_json()
    assert '"shift":8' in text
    with pytest.raises(KitError, match=f"no program .* {constant} is no number of JSON"):
        Program.from_json(text.replace('"shift":8', f'"shift":{constant}'))


def test_a_shift_leaves_a_window():
    b = Builder((8, 8, 1), 20)
    with pytest.raises(KitError, match="leaves no 22 of a ring of 38"):
        ModelOwner(b.program(b.same("relu", "input", shift=17)), {})


def test_local_channels_say_what_is_wrong():
    one, other = local_channels(0.05)
    one.send(b"abc", np.arange(2, dtype=np.uint8))
    assert bytes(other.receive(5)) == b"abc\0\1" and other.received_bytes == one.sent_bytes == 5
    with pytest.raises(KitError, match="said nothing"):
        other.receive(1)
    other.send(b"abc")
    with pytest.raises(KitError, match="4 bytes were due"):
        one.receive(4)
    assert (DATA_OWNER, MODEL_OWNER) == (0, 1)
