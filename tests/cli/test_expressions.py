"""Methods as a user types them: what is read, what is refused, and that nothing is ever evaluated."""

from __future__ import annotations

import pytest

from distil.errors import DistilError
from distil.methods.expression import parse


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("kd", "kd"),
        ("  KD ", "kd"),
        ("2*3*kd", "6*kd"),
        ("-0.5*kd", "-0.5*kd"),
        ("(kd + dkd)*ramp(epochs=3)", "ramp(epochs=3)*kd + ramp(epochs=3)*dkd"),
        ("0.1*supervised\n+ 0.9*kd(temperature=4)\n", "0.1*supervised + 0.9*kd(temperature=4)"),
        ("kd # as Hinton has it", "kd"),
        ("ff-g2m(low=false)", "0.4*supervised + 0.6*highfrequency(temperature=1.5)"),
        ("FF-G2M(low=false)", "0.4*supervised + 0.6*highfrequency(temperature=1.5)"),
        ("ff_g2m(low=False)", "0.4*supervised + 0.6*highfrequency(temperature=1.5)"),
        ("supervised + 2*directnorm(part=cosine)", "supervised + 2*directnorm(part=cosine)"),
        ("at(taps=stages)", "at(taps=stages)"),
        ("at(taps=layer1.0)", "at(taps='layer1.0')"),
        ("at(taps='layer1.0')", "at(taps='layer1.0')"),
        ("at(taps=[layer1.0.conv1, layer2])", "at(taps=['layer1.0.conv1', layer2])"),
        ("rkd(tap=fc:in)", "rkd(tap='fc:in')"),
        ("rkd(tap='mix-kd.0')", "rkd(tap='mix-kd.0')"),
    ],
)
def test_what_is_read(text: str, read: str) -> None:
    made = parse(text)
    assert made.expression == read
    assert parse(made.expression).expression == read


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("kd +", "cannot be read"),
        ("2 kd", "cannot be read"),
        ("kd; pld", "cannot be read"),
        ("kd+" * 5000 + "kd", "cannot be read"),
        ("(" * 5000 + "kd" + ")" * 5000, "cannot be read"),
        ("0.5", "is only a number"),
        ("ramp(epochs=20)", "is only a number"),
        ("kd + 1", "A number is added to a method"),
        ("kd * pld", "Two methods are multiplied"),
        ("ramp(epochs=2)*ramp(epochs=3)*kd", "Two schedules are multiplied"),
        ("supervised - kd", "is not allowed"),
        ("kd / 2", "is not allowed"),
        ("kd if 1 else pld", "is not allowed"),
        ("lambda: kd", "is not allowed"),
        ("[kd for kd in 1]", "is not allowed"),
        ("open('was-run', 'w')", "takes named arguments only"),
        ("__import__('os').system('touch was-run')", "is not allowed"),
        ("kd(temperature=__import__('os'))", "is not allowed"),
        ("kd(4)", "takes named arguments only"),
        ("kd(**{})", "takes named arguments only"),
        ("kd(temperature=4, temperature=5)", "'temperature' is given twice"),
        ("kd(temprature=4)", "kd(temprature=…) does not exist; did you mean 'temperature'?"),
        ("kd(temperature=hot)", "kd(temperature=hot) must be a finite number"),
        ("kd(temperature=true)", "must be a finite number"),
        ("kd(temperature=1e999)", "must be a finite number"),
        ("pld(label_first=no)", "pld(label_first=no) must be true or false"),
        ("kd(name='a.b')", "must be a plain word"),
        ("kd(convention=distill)", "kd(convention='distill') is unknown"),
        ("1e999*kd", "must be a finite number"),
        ("ramp(epoch=3)*kd", "did you mean 'epochs'"),
        ("kd + 2*kd", "two components called 'kd'"),
        ("kdd", "'kdd' is no method; did you mean 'kd'"),
        ("dense2moe", "is planned"),
    ],
)
def test_what_is_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(DistilError) as error:
        parse(text)
    assert says in str(error.value)
    assert len(str(error.value)) < 400
