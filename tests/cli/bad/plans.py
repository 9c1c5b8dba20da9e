"""Plans that cannot be made."""

from __future__ import annotations

from .row import Row, own, table


def plan(wrong: str, sentence: str, *changed: str) -> Row:
    return Row(wrong, own(*changed, verb="plan"), sentence)


ROWS = [
    Row("a plan of nothing", ["plan"], "--data is missing"),
    Row(
        "a plan without a teacher", ["plan", "--data", "photos", "--student", "models.py:make"], "--teacher is missing"
    ),
    Row("a plan without a student", ["plan", "--data", "photos", "--teacher", "models.py:eye"], "--student is missing"),
    Row("a plan for data that are not there", own(verb="plan", data="nowhere"), "nowhere"),
    plan("a plan of an unknown method", "'kdd'", "--method", "kdd"),
    plan("a plan of an empty method", "--methods 'kd,' has an empty entry", "--method", "kd,"),
    plan("a plan of a method twice", "--methods names 'kd' twice", "--methods", "kd,kd"),
    plan("a plan of an unknown teacher", "models.py", "--teacher", "models.py:eyes"),
    plan("a plan of a student of other classes", "5", "--student", "models.py:five"),
    plan("a plan of a tap that is not there", "'at(taps=layer9)' does not fit", "--method", "at(taps=layer9)"),
    plan("a plan of a cached teacher", "holds stored answers, and a plan weighs", "--teacher", "cache:answers"),
    plan("a plan in no memory", "memory '0GB' is impossible; expected from 1MB up", "--memory", "0GB"),
    plan("a plan in less than no memory", "memory '-3GB' is impossible", "--memory", "-3GB"),
    plan("a plan in a word of memory", "memory 'plenty' is no amount; write 16GB", "--memory", "plenty"),
    plan("a plan in an unknown unit", "memory '16 bananas' is no amount", "--memory", "16 bananas"),
    plan("a plan in memory that is no number", "memory 'nanGB' is", "--memory", "nanGB"),
    plan("a plan in endless memory", "memory 'infGB' is", "--memory", "infGB"),
    plan("a plan on no devices", "Invalid value for '--devices'", "--devices", "0"),
    plan("a plan on a device that is not there", "device=tpu9", "--device", "tpu9"),
    plan("a plan of an unknown optimizer", "did you mean 'adam' or 'adamw'?", "--set", "training.optimizer=adamv"),
    plan("a plan of an unknown setting", "did you mean 'epochs'?", "--set", "training.epoch=3"),
    plan("a plan of an unknown precision", "precision='fp8' is unknown", "--precision", "fp8"),
    Row(
        "a plan by a file of another thing",
        own("--config", "own.yaml", verb="plan"),
        "The setting 'methds' does not exist; did you mean 'methods'?",
        table("methds: [kd]", name="own.yaml"),
    ),
]
