"""The task of labelling every pixel: void pixels never count, scores are resized, nothing holds all logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from distil.data import DictDataset
from distil.engine import Distiller, fit
from distil.errors import DistilError
from distil.loops.measure import agreement, comparable, reliability
from distil.methods import Supervised
from distil.tasks import SegmentationTask, get_task, teacher_above_chance
from distil.tasks.segmentation import confusion, overlap_scores
from engine import toys

TASK = get_task("segmentation")
CLASSES = toys.CLASSES


class Fixed(nn.Module):
    """Scores that depend on the first pixel's value alone: sample k answers with row k of a table."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.scores[inputs[:, 0, 0, 0].long()]


def answering(count: int = 7, size: int = 6, seed: int = 0) -> tuple[Fixed, DictDataset]:
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, CLASSES, size // 2, size // 2, generator=rng)
    labels = torch.randint(-1, CLASSES, (count, size, size), generator=rng)
    inputs = torch.arange(count).view(-1, 1, 1, 1).expand(-1, 3, size, size).float()
    return Fixed(scores), DictDataset(inputs, labels.masked_fill(labels < 0, -100))


def test_scores_are_those_of_torchmetrics_over_pixels_that_count() -> None:
    model, data = answering()
    resized = F.interpolate(model.scores, size=6, mode="bilinear", align_corners=False)
    found = TASK.evaluate(model, data, batch_size=3)
    options = {"num_classes": CLASSES, "ignore_index": -100}
    expected = multiclass_jaccard_index(resized, data.labels, average="macro", **options)
    assert found["mIoU"] == pytest.approx(100 * float(expected), rel=1e-6)
    accuracy = multiclass_accuracy(resized, data.labels, average="micro", **options)
    assert found["accuracy"] == pytest.approx(100 * float(accuracy), rel=1e-6)
    assert TASK.score(TASK.predict(model, data)) == pytest.approx(found)


def test_a_class_that_nobody_has_or_answers_is_left_out() -> None:
    assert overlap_scores(torch.tensor([[3, 0, 0], [0, 0, 0], [0, 0, 1]]))["mIoU"] == 100
    assert overlap_scores(torch.tensor([[3, 1, 0], [0, 0, 0], [0, 0, 1]]))["mIoU"] == pytest.approx(175 / 3)


def test_void_pixels_count_nowhere() -> None:
    model, data = answering()
    void = data.labels == -100
    changed = DictDataset(data.inputs, data.labels)
    batch = changed.batch(torch.arange(len(data)))
    term = TASK.loss(model(batch["inputs"]), batch)
    assert term.values.shape == data.labels.shape
    assert torch.equal(term.weights == 0, void)
    assert float(term.total()) == float((~void).sum()) == float(Supervised().counts(batch)["supervised"])
    table = confusion(TASK.predict(model, data))
    assert int(table.sum()) == int((~void).sum())
    # A void class of the data's own means the same.
    raw = DictDataset(data.inputs, data.labels.masked_fill(void, 11))
    known = SegmentationTask(void=11)
    assert known.evaluate(model, raw) == TASK.evaluate(model, data)
    assert known.chance(raw) == TASK.chance(data)
    assert known.chance_accuracy(raw) == TASK.chance_accuracy(data)
    assert torch.equal(known.unpack(raw.batch(torch.arange(3)))["labels"], data.labels[:3])


def test_the_gradient_of_a_void_pixel_is_zero() -> None:
    scores = torch.zeros(1, CLASSES, 2, 2, requires_grad=True)
    labels = torch.tensor([[[0, -100], [1, 2]]])
    TASK.loss(scores, {"labels": labels}).mean().backward()
    assert (scores.grad[0, :, 0, 1] == 0).all()
    assert (scores.grad[0, :, 0, 0] != 0).all()


def test_a_split_with_unequal_void_gives_the_same_gradient() -> None:
    """Every pixel weighs the same whatever micro-batch it is in."""
    data = toys.scenes(10, dtype=torch.float64)
    net = toys.seeded(lambda: toys.DenseNet(4, norm=False), 1).double()
    made = Distiller(net, None, Supervised(), task="segmentation", example=toys.batch(data, 4))
    made.watch(torch.optim.SGD(made.parameters(), lr=0.1))
    found = []
    for sizes in ([10], [1, 4, 5], [6, 4]):
        starts = [sum(sizes[:k]) for k in range(len(sizes))]
        window = [toys.batch(data, size, start) for size, start in zip(sizes, starts, strict=True)]
        counts = {float((part["labels"] != -100).sum()) / len(part["labels"]) for part in window}
        assert len(counts) == len(sizes)  # unequal shares of void
        totals = made.totals(window)
        made.zero_grad()
        for part in window:
            made(part, totals=totals, divides=False).loss.backward()
        found.append(toys.grads(made))
        made.skip_step()
    for other in found[1:]:
        for name, grad in found[0].items():
            assert torch.allclose(grad, other[name], rtol=1e-9, atol=1e-14), name


def test_a_prediction_keeps_a_class_and_its_probability_not_all_scores() -> None:
    model, data = answering()
    said = TASK.predict(model, data)
    assert "logits" not in said
    assert said["answer"].dtype == torch.uint8
    assert said["answer"].shape == said["confidence"].shape == data.labels.shape
    resized = F.interpolate(model.scores, size=6, mode="bilinear", align_corners=False)
    assert torch.equal(said["answer"].long(), resized.argmax(1))
    torch.testing.assert_close(said["confidence"].float(), resized.softmax(1).amax(1), rtol=1e-3, atol=1e-3)
    assert not model.scores.grad_fn


def test_evaluation_never_joins_what_batches_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = answering()
    monkeypatch.setattr(TASK, "predict", lambda *a, **k: pytest.fail("all predictions were held at once"))
    assert TASK.evaluate(model, data)["accuracy"] > 0


def test_agreement_and_reliability_are_over_labelled_pixels() -> None:
    model, data = answering()
    other, _ = answering(seed=1)
    said, theirs = TASK.predict(model, data), TASK.predict(other, data)
    counted = data.labels != -100
    same = (said["answer"] == theirs["answer"])[counted].float().mean()
    assert agreement(said, theirs) == pytest.approx(100 * float(same))
    assert agreement(said, said) == 100
    assert comparable(said, theirs)
    assert not comparable(said, {"logits": torch.zeros(7, 3), "labels": said["labels"], "id": said["id"]})
    bins = reliability(said)
    assert sum(bins["count"]) == int(counted.sum())
    right = sum(a * n for a, n in zip(bins["accuracy"], bins["count"], strict=True))
    assert right == pytest.approx(float((said["answer"].long() == data.labels)[counted].sum()), rel=1e-5)


def test_chance_is_the_overlap_of_one_answer_everywhere() -> None:
    _, data = answering()
    labels = data.labels[data.labels != -100]
    common = int(labels.bincount().argmax())
    scores = F.one_hot(torch.tensor(common), CLASSES).float().view(1, -1, 1, 1).expand(len(data), -1, 2, 2)
    found = TASK.evaluate(Fixed(scores.clone()), data)
    assert TASK.chance(data) == pytest.approx(found["mIoU"])
    assert TASK.chance_accuracy(data) == pytest.approx(found["accuracy"])


def test_the_teacher_is_held_against_chance_by_images() -> None:
    """A perfect teacher passes, one that answers one class does not; pixels of an image are one opinion."""
    _, data = answering(count=12)
    whole = data.labels.clamp(min=0)
    data = DictDataset(data.inputs, whole)
    perfect = Fixed(10 * F.one_hot(whole, CLASSES).permute(0, 3, 1, 2).float())
    seen = teacher_above_chance(TASK, perfect, data)
    assert seen["ok"]
    assert seen["samples"] == 12
    assert seen["accuracy"] == 100
    assert "right on 100.0 % of the pixels of 12 samples" in seen["message"]
    lazy = Fixed(torch.tensor([9.0, 0.0, 0.0]).view(1, 3, 1, 1).repeat(12, 1, 3, 3))
    assert not teacher_above_chance(TASK, lazy, data)["ok"]
    student = toys.DenseNet(4, channels=3)
    made = Distiller(student, lazy, Supervised(), task=TASK, example=data.batch(torch.arange(2)))
    with pytest.raises(DistilError, match="not above the chance level"):
        fit(made, data, data, epochs=1, batch_size=4, device="cpu")


def test_scores_and_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DistilError, match=r"the scores are \(2, 3\) and the labels \(2, 4, 4\)"):
        TASK.loss(torch.zeros(2, 3), {"labels": torch.zeros(2, 4, 4, dtype=torch.long)})
    with pytest.raises(DistilError, match=r"the labels are \(2,\) but maps"):
        TASK.unpack({"inputs": torch.zeros(2, 3, 4, 4), "labels": torch.zeros(2, dtype=torch.long)})
    with pytest.raises(DistilError, match=r"the label 7 of .* is outside 0\.\.2"):
        TASK.loss(torch.zeros(1, 3, 2, 2), {"labels": torch.full((1, 4, 4), 7)})
    with pytest.raises(DistilError, match="none of the pixels has a label"):
        overlap_scores(torch.zeros(3, 3, dtype=torch.long))
    assert (TASK.unpack({"inputs": torch.zeros(2, 3, 4, 5)})["labels"] == torch.full((2, 4, 5), -100)).all()
    assert TASK.logits({"out": torch.ones(1, 3, 2, 2)}).shape == (1, 3, 2, 2)
