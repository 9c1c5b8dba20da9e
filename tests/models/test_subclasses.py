"""A classifier rebuilt to score subclasses: it answers with classes, and the given model is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distil.data.fingerprint import fingerprint
from distil.engine.method import Method, as_sum
from distil.errors import DistilError
from distil.methods import KD
from distil.models import MLP, BagOfWords, SmallCNN, with_subclasses


def test_the_answer_is_the_log_sum_exp_of_each_classes_scores() -> None:
    torch.manual_seed(0)
    model = SmallCNN(1, 3, widths=(4, 6))
    before, images = fingerprint(model), torch.rand(5, 1, 8, 8)
    split = with_subclasses(model, 4).eval()
    assert fingerprint(model) == before
    seen: list[torch.Tensor] = []
    split.fc.subclasses.register_forward_hook(lambda module, args, output: seen.append(output))
    answer = split(images)
    (scores,) = seen
    assert scores.shape == (5, 12)
    for c in range(3):
        torch.testing.assert_close(answer[:, c], scores[:, 4 * c : 4 * c + 4].exp().sum(1).log())
        torch.testing.assert_close(split.fc.subclasses.weight[4 * c], model.fc.weight[c])
    torch.testing.assert_close(answer.softmax(1), scores.softmax(1).unflatten(1, (3, 4)).sum(2))
    assert not torch.equal(split.fc.subclasses.weight[1], split.fc.subclasses.weight[0])


def test_one_subclass_answers_as_before() -> None:
    model = MLP(4, 8, 3)
    inputs = torch.randn(6, 4)
    torch.testing.assert_close(with_subclasses(model, 1)(inputs), model(inputs))


def test_a_bare_layer_a_text_net_and_a_frozen_head() -> None:
    assert with_subclasses(nn.Linear(4, 3), 2)(torch.zeros(1, 4)).shape == (1, 3)
    words = with_subclasses(BagOfWords(30, 2, dim=4), 3)
    assert words(torch.ones(2, 5).long(), torch.ones(2, 5).long()).shape == (2, 2)
    model = MLP(4, 8, 3)
    model.layers[-1].requires_grad_(False)
    assert not any(p.requires_grad for p in with_subclasses(model, 2).layers[-1].parameters())
    without = nn.Sequential(nn.Linear(4, 3, bias=False))
    assert with_subclasses(without, 2)[0].subclasses.bias is None


def test_what_cannot_be_rebuilt_is_refused() -> None:
    with pytest.raises(DistilError, match="subclasses=0"):
        with_subclasses(MLP(4, 8, 3), 0)
    with pytest.raises(DistilError, match="has subclasses already"):
        with_subclasses(with_subclasses(MLP(4, 8, 3), 2), 2)
    with pytest.raises(DistilError, match=r"no nn\.Linear"):
        with_subclasses(nn.ReLU(), 2)
    with pytest.raises(DistilError, match=r"'layers\.1'"):
        with_subclasses(MLP(4, 8, 3), 2, head="layers.11")


class Widening(Method):
    """A method whose student has a wider head."""

    def rebuild(self, student: nn.Module) -> nn.Module:
        return with_subclasses(student, 2)

    def forward(self, student: object, teacher: object, batch: object, ctx: object) -> dict[str, object]:
        return {}


def test_a_sum_rebuilds_by_the_one_method_that_does() -> None:
    model = MLP(4, 8, 3)
    assert as_sum(KD()).rebuild(model) is model
    assert (KD() + 0.5 * Widening()).rebuild(model).layers[-1].subclasses.out_features == 6
    assert (0.5 * KD() + 0 * Widening()).rebuild(model) is model  # what is left out rebuilds nothing
    with pytest.raises(DistilError, match="Both 'widening' and 'other' rebuild the student"):
        (Widening() + Widening(name="other")).rebuild(model)
