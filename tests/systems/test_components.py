"""What the cards say of systems with code: every component can be switched; hooks, taps and exports are as listed."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest
import torch

from distil import catalog
from distil.engine.method import Method, Sum, overrides
from distil.methods.expression import parse

from .toys import (
    ensemble_distiller,
    graph,
    graph_distiller,
    image_distiller,
    map_distiller,
    masked_distiller,
    pictures,
    samples,
    scene_distiller,
    scenes,
    train,
)

# What flips each component: the arguments of published() that change. A component that is no argument of that name
# would stand here with the arguments that switch it, and the reason.
FLIPS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "pld": {
        "teacher_temperature": [{"teacher_temperature": 4.0}],
        "weights": [{"weights": name} for name in ("uniform", "position", "first-only")],
        "label_first": [{"label_first": False}],
        "standardise": [{"standardise": "teacher"}, {"standardise": "both"}],
    },
    "nd": {
        "part": [{"part": "cosine"}, {"part": "norm"}],
        "nd_weight": [{"nd_weight": 0.0}, {"nd_weight": 1.0}],
        "base": [{"base": "dkd"}, {"base": "dist"}],
        "warmup": [{"warmup": 0}, {"warmup": 1}],
        "kd_weight": [{"kd_weight": 0.0}],
        "cls_weight": [{"cls_weight": 0.0}],
    },
    "ff-g2m": {
        "low": [{"low": False}],
        "high": [{"high": False}],
        "tau": [{"tau": 0.7}],
        "lam": [{"lam": 0.0}, {"lam": 1.0}],
    },
    "acam-kd": {
        "fusion": [{"fusion": name} for name in ("teacher_only", "student_only", "concat")],
        "query": [{"query": "student"}],
        "spatial": [{"spatial": False}],
        "channel": [{"channel": False}],
        "diversity": [{"diversity": "ratio"}, {"diversity": "off"}],
        "normalizer": [{"normalizer": "literal"}],
        "adaptive": [{"adaptive": False}],
        "detach_masks": [{"detach_masks": True}],
        "detach_mask_student": [{"detach_mask_student": True}],
        "inherit": [{"inherit": True}],
        "alpha": [{"alpha": 2.0}],
        "lam": [{"lam": 0.5}],
    },
    "mix-kd": {
        "mixing": [{"mixing": "off"}, {"mixing": "full"}],
        "partial": [{"partial": 0.2}],
        "draw": [{"draw": "exact"}],
        "loss": [{"loss": "plain"}],
        "a": [{"a": 0.2}],
        "shared": [{"shared": True}],
        "gamma": [{"gamma": 0.0}, {"gamma": 1.0}],
        "alpha": [{"alpha": 0.0}],
        "temperature": [],  # of the plain loss alone: tests/systems/test_mix_kd.py
        "teacher_input": [{"teacher_input": "clean"}],
    },
    "lelp": {
        "null_space": [{"null_space": False}],
        "rotate": [{"rotate": False}],
        "standardize": [{"standardize": False}],
        "splitter": [
            {"splitter": name} for name in ("pca", "projections", "kmeans", "agglomerative", "tsne", "random")
        ],  # "fine" needs finer labels: tests/systems/test_lelp.py
        "subclasses": [{"subclasses": 1}, {"subclasses": 3}],
        "beta": [{"beta": 0.1}, {"beta": 3.0}],
        "temperature": [{"temperature": 4.0}],
        "alpha": [{"alpha": 0.5}],
        "targets": [],  # of one view both are equal, of several they differ: tests/systems/test_lelp.py
    },
    "ofa-kd": {
        "branches": [{"branches": "none"}, {"branches": [2]}],
        "gamma": [{"gamma": 1.0}, {"gamma": [1.5, 1.0, 1.5]}, {"gamma": [1.5, 1.5, 1.0]}],
        "enhance": [{"enhance": "target_only"}, {"enhance": "off"}],
        "temperature": [{"temperature": 4.0}],
        "logit_weight": [{"logit_weight": 0.0}],
        "branch_weight": [{"branch_weight": 0.0}, {"branch_weight": 2.0}],
        "label_weight": [{"label_weight": 0.0}],
        "project": [{"project": "features"}],
    },
    "dmae": {
        "reconstruction": [{"reconstruction": False}],
        "weight": [{"weight": 0.0}, {"weight": 5.0}],
        "pairs": [{"pairs": ((3, 5),)}, {"pairs": ((8, 17), (3, 5))}],
        "mask_ratio": [{"mask_ratio": 0.5}, {"mask_ratio": 0.9}],
        "head": [{"head": "mlp-1layer"}, {"head": "mlp-2layer"}, {"head": "none"}],
        "distance": [{"distance": "l2"}],
        "normalise": [{"normalise": False}],
        "norm_pix": [{"norm_pix": True}],
    },
    "tgeo-kd": {
        "state": [{"state": design} for design in (1, 2, 4, 5, 6, 7, "cifar")],
        "controller": [{"controller": "cifar"}],
        "trained": [{"trained": False}],
        "rule": [{"rule": name} for name in ("fixed", "annealed", "ada", "wls", "free")],
        "alpha": [],  # of rule fixed alone: tests/systems/test_tgeo_kd.py
        "unroll": [{"unroll": False}],
        "every": [{"every": 2}],
        "validation": [{"validation": 0.4}],
        "temperature": [{"temperature": 4.0}],
    },
    "diswot": {"gram_losses": [{"gram_losses": True}]},
    "meal-v2": {
        "ensemble": [{"ensemble": name} for name in ("mean-logit", "random", "single")],
        "discriminator": [{"discriminator": 0.0}, {"discriminator": 0.5}],
        "sign": [{"sign": "adversarial"}, {"sign": "detached"}],
        "final_relu": [{"final_relu": True}],
        "reduction": [{"reduction": 1}],
        "labels": [{"labels": 0.5}],
        "cutmix": [{"cutmix": 1.0}],
        "recover": [{"recover": name} for name in ("hard", "smoothing", "renormalised")],
        "shares": [],  # of teachers drawn at random: tests/systems/test_meal_v2.py
        "top": [],  # of a label that is recovered: tests/systems/test_meal_v2.py
        "d_lr": [],  # under fit, which makes the groups: tests/systems/test_meal_v2.py
    },
    "random-teachers": {
        "loss": [{"loss": name} for name in ("kl", "mse", "entropy")],
        "centring": [{"centring": 0.9}],
        "student_temperature": [{"student_temperature": 0.1}],
        "teacher_temperature": [{"teacher_temperature": 0.04}],
        "inputs": [{"inputs": "noise"}],
        # of images, crops, or equal networks alone: tests/systems/test_random_teachers.py
        **{key: [] for key in ("averaging", "freeze_last", "crops", "crop_size", "views")},
    },
    "kd-dd-survey": {
        "certainty": [{"certainty": name} for name in ("entropy", "max-prob", "variance")],
        "teachers": [{"teachers": name} for name in ("confidence", "entropy", "gate", "alternate")],
        "target": [{"target": "logits"}, {"target": "losses"}],
        "smoothing": [{"smoothing": 0.2}],
        "temperature": [{"temperature": 4.0}],
    },
    "nrr-dd": {
        "labels": [{"labels": "soft"}, {"labels": "onehot"}],
        "distance": [{"distance": "mse"}, {"distance": "smooth-l1"}],
        "sce_target": [{"sce_target": "reconstructed"}],
    },
    "trg": {
        "kd": [{"kd": 0.0}],
        "inner": [{"inner": 0.0}],
        "local": [{"local": 0.0}],
        "contrast": [{"contrast": 0.0}],
        "fall": [{"fall": "constant"}],  # two epochs have the two ends only; "cosine": tests/systems/test_trg.py
        "samples": [{"samples": 3}, {"samples": 99}],
        "neighbours": [{"neighbours": 2}],
        "patch": [{"patch": 2}],
        "mask": [{"mask": "shared"}],
        "sigma": [{"sigma": 0.5}, {"sigma": "median"}],
        "direction": [{"direction": "teacher"}],
        "reduction": [{"reduction": "mean"}],
        "grid": [{"grid": 2}],
    },
}
# Components of a procedure, which are no arguments of published(), and the test that switches them.
ELSEWHERE = {
    "diswot": {"semantic", "relation", "init", "search", "proxy"},  # tests/systems/test_diswot.py
    "kd-dd-survey": {"matching", "distance", "selection", "labels", "carrier"},  # of small sets: tests/loops
    "nrr-dd": {  # tests/systems/test_nrr_dd.py
        *("init", "crop_score", "crop_shown", "confidence", "require_correct", "refine", "cam_scale", "cam_every"),
        *("optimizer", "betas", "schedule", "clamp", "view", "statistics", "mix_beta", "label_view"),
    },
    "random-teachers": {"alpha", "start", "bottleneck", "clip", "rewind"},  # tests/systems/test_random_teachers.py
}
OF_SEVERAL = {"kd-dd-survey", "meal-v2"}  # whose components tell several teachers apart
ON_MAPS = {"diswot", "nrr-dd", "ofa-kd", "trg"}
ON_PATCHES = {"dmae"}
WITH_CODE = [slug for slug, card in catalog.systems().items() if card.has_method and card.origin == "distil"]
CASES = [(slug, key, changed) for slug, keys in FLIPS.items() for key, flips in keys.items() for changed in flips]


def published(slug: str, **changed: Any) -> Sum:
    made: Sum = catalog.resolve(slug).load()(**changed)
    return made


def run(slug: str, **changed: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if catalog.card(slug).field == "graph":
        return train(graph_distiller(published(slug, **changed)), graph())
    if catalog.card(slug).field == "dense":
        return train(scene_distiller(published(slug, **changed)), scenes())
    if slug in OF_SEVERAL:
        return train(ensemble_distiller(published(slug, **changed)), pictures())
    if slug in ON_PATCHES:
        return train(masked_distiller(published(slug, **changed)), pictures())
    if slug in ON_MAPS:
        return train(map_distiller(published(slug, **changed)), pictures())
    wide = {"teacher_width": 16} if slug == "lelp" else {}  # as many dimensions as subclasses and classes need
    return train(image_distiller(published(slug, **changed), **wide), samples())


@pytest.mark.parametrize("slug", WITH_CODE)
def test_every_component_of_a_card_is_an_argument_and_is_flipped_here(slug: str) -> None:
    components = set(catalog.card(slug).components) - ELSEWHERE.get(slug, set())
    assert components == set(FLIPS[slug])
    assert components <= set(inspect.signature(catalog.resolve(slug).load()).parameters)
    for key, flips in FLIPS[slug].items():
        assert all(set(changed) == {key} for changed in flips)


@pytest.mark.parametrize("slug", WITH_CODE)
def test_an_unflipped_repeat_is_bit_equal(slug: str) -> None:
    for first, second in zip(run(slug), run(slug), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("slug", "key", "changed"), CASES, ids=[f"{s}-{'-'.join(map(str, c.items()))}" for s, _, c in CASES]
)
def test_a_flipped_component_changes_loss_or_parameters(slug: str, key: str, changed: dict[str, Any]) -> None:
    plain, flipped = run(slug), run(slug, **changed)
    assert flipped[0].isfinite().all()
    assert not (torch.equal(plain[0], flipped[0]) and torch.equal(plain[1], flipped[1]))


@pytest.mark.parametrize("slug", WITH_CODE)
def test_hooks_labels_and_contents_are_as_the_card_says(slug: str) -> None:
    card = catalog.card(slug)
    package = import_module(card.package)
    classes = [getattr(package, name) for name in card.proof.exports]
    assert classes
    names = set(card.proof.exports) | {"published"}
    assert names == set(package.__all__) if card.kind == "method" else names <= set(package.__all__)
    made: list[Method] = [kind() for kind in classes]
    hooks = {hook for hook in vars(Method) if not hook.startswith("_") and callable(getattr(Method, hook))}
    used = {hook for hook in hooks - {"forward"} if any(overrides(method, hook) for method in made)}
    assert set(card.needs.hooks) == used
    assert card.contains_task == any(method.contains_task for method in made)
    reads = {tap for method in made for spec in method.taps for tap in ((spec,) if isinstance(spec, str) else spec)}
    assert set(card.needs.taps) == reads - {None}
    parts = [component.method for component in published(slug)]
    assert (card.needs.labels != "none") == any(part.labels for part in parts)


@pytest.mark.parametrize("slug", WITH_CODE)
def test_reasons_are_given_for_terms_that_are_not_at_rest_at_equality(slug: str) -> None:
    card = catalog.card(slug)
    package = import_module(card.package)
    restless = {
        term
        for name in card.proof.exports
        for term, at_rest in getattr(package, name)().at_equality.items()
        if at_rest is None
    }
    assert set(card.proof.at_equality) == restless
    assert all(len(reason) > 20 for reason in card.proof.at_equality.values())


@pytest.mark.parametrize("slug", WITH_CODE)
def test_the_slug_in_an_expression_is_the_published_sum(slug: str) -> None:
    assert parse(slug).expression == published(slug).expression
    assert parse(published(slug).expression).expression == published(slug).expression
