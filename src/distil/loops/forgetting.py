"""What an unlearned model is audited by: utility, forgetting, two attacks on membership, distance to retraining."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distil.data.links import both_ways
from distil.data.loading import mix_seed
from distil.functional import forget_auc, posterior_distance, roc_auc
from distil.loops.scene import Elements, Scene, said
from distil.loops.unlearning import Descent, descended, fresh, trained

__all__ = ["ATTACK", "METRICS", "OVERSHOOT", "Attack", "audit", "in_words", "shadow_attack", "silent"]

ATTACK = Descent(steps=200, lr=0.01, weight_decay=0.0)
OVERSHOOT = 5.0  # points of forgetting above a retrained model from which deleted elements stand out
METRICS = {
    "forget AUC": "retained against deleted elements by the model's score, %, mean of 500 draws; at 50 they look alike",
    "confidence": "mean probability of the deleted elements' truth, %",
    "attack success": "mean probability, %, that a shadow-trained attacker gives to deleted elements' being members",
    "membership ratio": "that attacker's success before over after, above 1 is better; huge where it is sure of a no",
    "change AUC": "deleted against unseen elements by how far their posterior moved from the original model's, %",
    "distance to retrained": "mean distance of posteriors from a retrained model's, on unseen and deleted elements",
}


@dataclass(frozen=True)
class Attack:
    """An attacker of membership: from posteriors to the probability that an element was trained on."""

    net: nn.Module

    def success(self, posteriors: Tensor) -> float:
        """Return the mean probability it gives to membership."""
        with torch.no_grad():
            return float(self.net(_attacked(posteriors)).softmax(1)[:, 1].mean())


def _attacked(posteriors: Tensor) -> Tensor:
    """What the attacker sees: both probabilities of a pair, those of a node in falling order."""
    return posteriors if posteriors.shape[1] == 2 else posteriors.sort(dim=1, descending=True).values


def shadow_attack(scene: Scene, make: Callable[[], nn.Module], how: Descent, *, seed: int) -> Attack:
    """Return an attacker trained on a shadow model that knows half of what is kept and not the other half.

    The shadow is a new model of the same kind; its posteriors of the half it was trained on (members) and of the other
    (not) teach an MLP of 16 hidden units to tell which is which. GNNDelete's attacker has that form; its shadow is
    trained on the test edges instead.
    """
    generator = torch.Generator().manual_seed(mix_seed("shadow", seed))
    retain, device = scene.retain, scene.inputs.device
    order = torch.randperm(len(retain), generator=generator).to(device)
    members, others = (retain.part(half) for half in order.tensor_split(2))
    learn = members if scene.learn.kind == retain.kind else scene.learn
    after = both_ways(members.index) if retain.kind == "pairs" else scene.after
    shadow_scene = replace(scene, learn=learn, after=after)
    model = fresh(make, seed=mix_seed("shadow", seed), device=device)
    trained(model, scene.task, shadow_scene.training(), how, seed=mix_seed("shadow", seed))
    seen = [each.posteriors(said(shadow_scene, model, each)) for each in (members, others)]
    inputs = _attacked(torch.cat(seen))
    truth = torch.cat([torch.full((len(each),), k, device=device) for k, each in ((1, seen[0]), (0, seen[1]))])
    width = inputs.shape[1]
    net = fresh(
        lambda: nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 2)),
        seed=mix_seed("attack", seed),
        device=device,
    )
    descended(net.parameters(), lambda _: F.cross_entropy(net(inputs), truth), ATTACK, seed=seed)
    return Attack(net.eval())


def audit(
    scene: Scene,
    model: nn.Module,
    *,
    original: nn.Module,
    attack: Attack | None = None,
    retrained: nn.Module | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Return what is known of a model after a deletion: the task's own scores on what is left, and :data:`METRICS`.

    What needs an attacker or a retrained model is left out where there is none. Every model is asked on the edges that
    are left; only the original's answers from before the deletion are those on all edges there were.
    """
    scores = dict(scene.task.evaluate(model, [dict(scene.test)], device=scene.inputs.device))
    kept, gone = (said(scene, model, each) for each in (scene.retain, scene.forget))
    generator = torch.Generator().manual_seed(mix_seed("forget", seed))
    truths = [_truth(scene, elements, answers) for elements, answers in ((scene.retain, kept), (scene.forget, gone))]
    scores["forget AUC"] = 100 * forget_auc(*truths, generator=generator)
    scores["confidence"] = 100 * float(truths[1].mean())
    before = scene.forget.posteriors(said(scene, original, scene.forget, kept=False))
    after = scene.forget.posteriors(gone)
    moved = posterior_distance(after, before, reduction="none")
    unseen = scene.unseen
    steady = posterior_distance(
        unseen.posteriors(said(scene, model, unseen)),
        unseen.posteriors(said(scene, original, unseen, kept=False)),
        reduction="none",
    )
    scores["change AUC"] = 100 * roc_auc(moved, steady)
    if attack is not None:
        now = attack.success(after)
        scores["attack success"] = 100 * now
        scores["membership ratio"] = attack.success(before) / max(now, 1e-6)
    if retrained is not None:
        apart = [_apart(scene, model, retrained, each) for each in (unseen, scene.forget)]
        scores["distance to retrained"] = sum(apart) / len(apart)
    return scores


def silent(scene: Scene, model: nn.Module) -> bool:
    """Say whether a model answers the same whatever it is asked, as one does whose hidden units died in training.

    An AUC of 50 then means that nothing is left to tell, not that something was forgotten.
    """
    answers = torch.cat([said(scene, model, each) for each in (scene.retain, scene.forget, scene.unseen)]).float()
    return bool((answers.amax(0) - answers.amin(0)).max() <= 1e-6 * answers.abs().max())


def _apart(scene: Scene, model: nn.Module, other: nn.Module, elements: Elements) -> float:
    ours, theirs = (elements.posteriors(said(scene, each, elements)) for each in (model, other))
    return float(posterior_distance(ours, theirs))


def _truth(scene: Scene, elements: Elements, answers: Tensor) -> Tensor:
    """The probability of what is true of each element: a link, or a node's own class (its likeliest, without one)."""
    probabilities = elements.posteriors(answers)
    if elements.kind == "pairs":
        return answers.double().sigmoid()  # in double, so that saturated scores still differ
    labels = scene.labels[elements.index]
    own = probabilities.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)
    return torch.where(labels >= 0, own, probabilities.max(1).values)


def in_words(forgetting: float, retrained: float | None) -> str:
    """Say what a forget AUC means beside that of a retrained model.

    >>> in_words(88.0, 57.0).partition(":")[0]
    'Forgetting overshoots'
    """
    if retrained is None or not math.isfinite(retrained):
        return (
            f"Deleted elements are told from kept ones at an AUC of {forgetting:.1f}. Whether a model that never saw "
            "them would give the same is not known: none was retrained."
        )
    if forgetting > retrained + OVERSHOOT:
        return (
            f"Forgetting overshoots: deleted elements are told from kept ones at an AUC of {forgetting:.1f}, where "
            f"retraining leaves {retrained:.1f}. They stand out, so an attacker sees that something was deleted; this "
            "is a finding, not a win."
        )
    if forgetting < retrained - OVERSHOOT:
        return (
            f"Forgetting falls short: deleted elements are told from kept ones at an AUC of {forgetting:.1f}, where "
            f"retraining gives {retrained:.1f}."
        )
    return (
        f"Deleted elements are told from kept ones at an AUC of {forgetting:.1f}, and of {retrained:.1f} after "
        "retraining: they do not stand out. That alone shows no forgetting, since a model that forgot nothing can be "
        "as near; hold it against the model before."
    )
