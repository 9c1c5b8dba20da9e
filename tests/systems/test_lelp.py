"""LELP through its method: what is fitted on what, which targets are taught, what ships, and what is refused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.cache import CachedTeacher, TeacherCache
from distil.data import DictDataset, View
from distil.data.regroup import Regrouped
from distil.engine.distiller import Distiller
from distil.engine.fit import fit
from distil.errors import DistilError
from distil.functional import kl
from distil.functional.subspace import subclass_coordinates
from distil.methods import KD, Supervised
from distil.methods.expression import parse
from distil.models import MLP, with_subclasses
from distil.systems.lelp import SubclassKD, published
from distil.tasks import ClassificationTask

from .toys import CLASSES, mlp, samples, seeded, train

WIDTH = 16


def made(method: Any = None, *, batch: dict[str, Tensor] | None = None, seed: int = 0, **options: Any) -> Distiller:
    batch = samples(40) if batch is None else batch
    method = SubclassKD(**options) if method is None else method
    torch.manual_seed(2)
    return Distiller(method.rebuild(mlp(4)), mlp(WIDTH, 1), method, example=batch, seed=seed).prepare([batch])


def of(distiller: Distiller) -> SubclassKD:
    return next(c.method for c in distiller.method if isinstance(c.method, SubclassKD))


def targets(distiller: Distiller, batch: dict[str, Tensor]) -> Tensor:
    teacher = distiller.cast.handles()[1]
    said = teacher(batch)
    return of(distiller)._targets(said["emb"], said.logits, batch["id"]).exp()


# --- S = 1, and the ends


def test_one_subclass_is_kd_to_the_bit_of_its_gradient() -> None:
    batch = samples(40)
    split, plain = made(subclasses=1, beta=0.1, temperature=1.0), made(KD(temperature=1))
    for distiller in (split, plain):
        distiller(batch).loss.backward()
    ours, theirs = ([p.grad for p in d.student.parameters()] for d in (split, plain))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    p = mlp(WIDTH, 1)(batch["inputs"]).softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    torch.testing.assert_close(split(batch).loss - entropy, plain(batch).loss, rtol=1e-4, atol=1e-5)
    assert of(split).at_equality == {"subclasskd": "stationary"}


def test_one_subclass_is_at_rest_where_student_and_teacher_are_equal() -> None:
    method, teacher = SubclassKD(subclasses=1), mlp(WIDTH, 1)
    student = method.rebuild(mlp(WIDTH, 1))
    distiller = Distiller(student, teacher, method, example=samples()).prepare([samples()])
    distiller(samples()).loss.backward()
    assert max(float(p.grad.abs().max()) for p in student.parameters() if p.grad is not None) < 1e-6


def test_sums_of_targets_are_the_teachers_probabilities() -> None:
    distiller, batch = made(), samples(40)
    p = targets(distiller, batch)
    torch.testing.assert_close(p.sum(2), mlp(WIDTH, 1)(batch["inputs"]).softmax(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(p.sum((1, 2)), torch.ones(40), rtol=0, atol=1e-6)
    even = targets(made(beta=math.inf), batch)
    torch.testing.assert_close(even, (p.sum(2) / 5)[..., None].expand(-1, -1, 5), rtol=1e-5, atol=1e-7)


# --- fitting


def test_directions_are_in_the_classifiers_null_space() -> None:
    distiller = made()
    head = mlp(WIDTH, 1).layers[-1].weight.detach()
    assert float((head @ of(distiller).directions).abs().max()) < 1e-5
    assert float((head @ of(made(null_space=False)).directions).abs().max()) > 1e-2
    found = made(head=None)  # from embeddings and logits alone
    assert float((head @ of(found).directions).abs().max()) < 1e-4
    assert not any("head" in spec for spec in of(found).taps if isinstance(spec, tuple))


def test_directions_are_fitted_on_what_prepare_reads_alone() -> None:
    data = samples(60)
    whole = DictDataset(data["inputs"].clone(), data["labels"], data["id"])
    train_part = View(whole, torch.arange(40))
    states = []
    for noise in (0.0, 9.0):  # of the samples that are held back
        whole.inputs[40:] += noise
        method = SubclassKD()
        torch.manual_seed(2)
        distiller = Distiller(method.rebuild(mlp(4)), mlp(WIDTH, 1), method, example=samples(8))
        held = View(whole, torch.arange(40, 60))
        fit(distiller, train_part, held, test=held, epochs=1, check_teacher=False, device="cpu")
        states.append(method.directions.clone())
    assert torch.equal(*states)


def test_directions_follow_the_seed_and_nothing_else() -> None:
    first, again, other = (of(made(seed=seed)).directions for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    plain = [of(made(seed=seed, rotate=False)).directions for seed in (0, 1)]
    assert torch.equal(*plain)


def test_a_sample_without_a_label_counts_for_the_teachers_class() -> None:
    batch = samples(40)
    theirs = {**batch, "labels": mlp(WIDTH, 1)(batch["inputs"]).argmax(1)}
    if len(theirs["labels"].unique()) < CLASSES:
        theirs["labels"][:CLASSES] = torch.arange(CLASSES)
    hidden = {**theirs, "labels": theirs["labels"].masked_fill(torch.arange(40) >= CLASSES, -100)}
    torch.testing.assert_close(*(of(made(batch=one)).means for one in (theirs, hidden)))


# --- targets of views


def test_live_targets_follow_the_view_and_cached_ones_the_sample() -> None:
    batch = samples(40)
    view = {**batch, "inputs": batch["inputs"] + 0.3 * torch.randn(40, 6, generator=seeded(9))}
    live, cached = made(), made(targets="cached")
    torch.testing.assert_close(live(batch).loss, cached(batch).loss)
    torch.testing.assert_close(
        cached(view).loss, -(targets(live, batch).flatten(1) * scores(cached, view)).sum(1).mean()
    )
    torch.testing.assert_close(live(view).loss, -(targets(live, view).flatten(1) * scores(live, view)).sum(1).mean())
    assert not torch.allclose(live(view).loss, cached(view).loss)


def scores(distiller: Distiller, batch: dict[str, Tensor]) -> Tensor:
    net = distiller.student
    return net.layers[-1].subclasses(net.layers[0](batch["inputs"]).relu()).log_softmax(1)


def test_cached_targets_need_no_teacher_in_a_step() -> None:
    distiller = made(targets="cached")
    seen = []
    hook = distiller.cast.teachers["model"].register_forward_hook(lambda *_: seen.append(1))
    distiller(samples(40)).loss.backward()
    hook.remove()
    assert not seen
    with pytest.raises(DistilError, match=r"id 99 was not in the data given to prepare"):
        distiller({**samples(1), "id": torch.tensor([99])})


def test_no_gradient_reaches_the_teacher() -> None:
    distiller = made()
    distiller(samples(40)).loss.backward()
    assert all(p.grad is None for p in distiller.cast.teachers["model"].parameters())
    assert not any(p.requires_grad for p in of(distiller).parameters())


def test_targets_under_autocast_are_float32() -> None:
    distiller, batch = made(), samples(40)
    with torch.autocast("cpu", torch.bfloat16):
        said = distiller.cast.handles()[1](batch)
        half = of(distiller)._targets(said["emb"], said.logits, batch["id"])
    exact = subclass_coordinates(
        said["emb"].float(), *(getattr(of(distiller), n) for n in ("means", "directions", "scale"))
    )
    expected = said.logits.float().log_softmax(1)[..., None] + (exact / 0.3).log_softmax(2)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected)


# --- splitters


@pytest.mark.parametrize("splitter", ["pca", "projections", "kmeans", "agglomerative", "tsne", "random"])
def test_every_splitter_splits_each_class_and_keeps_its_probability(splitter: str) -> None:
    batch = samples(60)
    distiller = made(batch=batch, splitter=splitter, subclasses=3)
    p = targets(distiller, batch)
    torch.testing.assert_close(p.sum(2), mlp(WIDTH, 1)(batch["inputs"]).softmax(1), rtol=0, atol=1e-6)
    own = p[torch.arange(60), batch["labels"]]
    if splitter in ("kmeans", "agglomerative", "tsne", "random"):
        assert bool(((own > 0).sum(1) == 1).all())
    for c in range(CLASSES):
        assert len(own[batch["labels"] == c].argmax(1).unique()) == 3


def test_pca_is_without_null_space_and_rotation() -> None:
    pca, plain = made(splitter="pca"), made(null_space=False, rotate=False)
    assert torch.equal(of(pca).directions, of(plain).directions)


def finer(count: int = 60) -> DictDataset:
    data = samples(count)
    return DictDataset(data["inputs"], torch.arange(count) % 10, data["id"])


def test_fine_labels_split_their_own_class_and_say_nothing_of_others() -> None:
    data = Regrouped(finer(), [k % CLASSES for k in range(10)])
    batch = data.batch(torch.arange(60))
    p = targets(made(batch=batch, splitter="fine", subclasses=3), batch)
    for i in range(60):
        own, c = p[i, batch["labels"][i]], int(batch["labels"][i])
        assert own.argmax() == int(batch["fine"][i]) // CLASSES
        assert own[2] == 0  # two fine labels in each class
        other = p[i, (c + 1) % CLASSES]
        torch.testing.assert_close(other[:2], other.sum().expand(2) / 2)
    with pytest.raises(DistilError, match=r"'fine'. Use another splitter"):
        made(splitter="fine")
    with pytest.raises(DistilError, match="class 0 has 2 finer labels, and 1 to 1"):
        made(batch=batch, splitter="fine", subclasses=1)


# --- what ships


def test_class_accuracy_is_of_summed_subclasses() -> None:
    student = with_subclasses(MLP(2, 4, 2, layers=1), 2)
    head = student.layers[-1].subclasses
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.4, 0.0, 0.3, 0.3]).log().nan_to_num(neginf=-20.0))
    inputs = torch.zeros(3, 2)
    assert int(head(inputs)[0].argmax()) // 2 == 0  # the largest of all subclasses is one of class 0
    assert int(student(inputs)[0].argmax()) == 1
    data = DictDataset(inputs, torch.ones(3).long())
    assert ClassificationTask().evaluate(student, data)["accuracy"] == 100


def test_the_student_ships_with_its_classes() -> None:
    data = DictDataset(samples(40)["inputs"], samples(40)["labels"])
    method = SubclassKD()
    distiller = Distiller(method.rebuild(mlp(4)), mlp(WIDTH, 1), method, example=data.batch(torch.arange(8)))
    result = fit(distiller, data, data, epochs=3, lr=0.02, batch_size=10, check_teacher=False, device="cpu")
    assert result.model is distiller.student
    assert result.model(samples(4)["inputs"]).shape == (4, CLASSES)
    assert distiller.task.evaluate(result.model, data) == {k: v for k, v in result.best.items() if k != "epoch"}
    assert "layers.1.classes" not in " ".join(result.model.state_dict())  # the sum has no parameters


def test_hard_labels_act_on_the_log_sum_exp_of_a_class() -> None:
    batch = samples(40)
    distiller = made(published(alpha=0.25))
    terms = distiller(batch).terms
    logits = scores(distiller, batch).unflatten(1, (CLASSES, 5)).logsumexp(2)
    expected = nn.functional.cross_entropy(logits, batch["labels"])
    torch.testing.assert_close(terms["supervised"], expected)
    torch.testing.assert_close(distiller(batch).loss, 0.25 * expected + 0.75 * terms["subclasskd"])
    with pytest.raises(DistilError, match="alpha=2"):
        published(alpha=2)


def test_kd_and_labels_beside_it_see_the_classes() -> None:
    batch = samples(40)
    distiller = made(SubclassKD() + 0.5 * KD(temperature=2) + 0.5 * Supervised())
    step = distiller(batch)
    logits = distiller.student(batch["inputs"])
    torch.testing.assert_close(step.terms["kd"], kl(logits, mlp(WIDTH, 1)(batch["inputs"]), temperature=2.0))
    train(distiller, batch)


def test_a_temperature_of_the_student_divides_its_scores() -> None:
    batch = samples(40)
    distiller = made(student_temperature=2.0)
    net = distiller.student
    raw = net.layers[-1].subclasses(net.layers[0](batch["inputs"]).relu())
    expected = -(targets(distiller, batch).flatten(1) * (raw / 2).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(distiller(batch).loss, expected)


# --- a cache in the teacher's place


def test_a_cache_of_embeddings_and_logits_teaches_nearly_the_same(tmp_path: Any) -> None:
    batch = samples(60)
    data = DictDataset(batch["inputs"], batch["labels"], batch["id"])
    teacher = mlp(WIDTH, 1).eval()
    cache = TeacherCache.write(
        teacher, data, ClassificationTask(), tmp_path / "cache", taps={"logits": "logits", "emb": "layers.1:in"}
    )
    live = made(batch=batch, rotate=False)
    whole = data.batch(torch.arange(60))
    both = {"logits": "logits", "emb": "layers.1:in", "head": "layers.1"}  # a head's answers are no layer
    more = TeacherCache.write(teacher, data, ClassificationTask(), tmp_path / "more", taps=both)
    for answers, asked in itertools.product(
        (cache, more), (SubclassKD(head=None, rotate=False), published(rotate=False))
    ):
        torch.manual_seed(2)
        student = asked.rebuild(mlp(4))
        stored = Distiller(student, CachedTeacher(answers), asked, example=data.batch(torch.arange(8)))
        stored.prepare(data)
        torch.testing.assert_close(stored(whole).loss, live(whole).loss, rtol=0.02, atol=0.01)
        assert float((teacher.layers[-1].weight.detach() @ of(stored).directions).abs().max()) < 0.02


# --- bad input


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"subclasses": 0}, "subclasses=0"),
        ({"beta": 0.0}, "beta=0.0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"student_temperature": 0.0}, "student_temperature=0.0"),
        ({"splitter": "kmean"}, "'kmeans'"),
        ({"targets": "cashed"}, "'cached'"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DistilError, match=said):
        SubclassKD(**wrong)


def test_a_student_that_was_not_rebuilt_is_refused_with_the_remedy() -> None:
    method = SubclassKD()
    with pytest.raises(DistilError, match=r"'subclasskd' teaches a student that it has rebuilt.*method\.rebuild"):
        Distiller(mlp(4), mlp(WIDTH, 1), method, example=samples())
    with pytest.raises(DistilError, match=r"5 scores for each class"):
        Distiller(with_subclasses(mlp(4), 3), mlp(WIDTH, 1), method, example=samples())
    with pytest.raises(DistilError, match="rebuild the student; at most one"):
        (SubclassKD() + SubclassKD(name="again")).rebuild(mlp(4))


def test_a_class_that_is_missing_is_refused() -> None:
    batch = samples(40)
    gone = {key: value[batch["labels"] != 3] for key, value in batch.items()}
    for splitter in ("lelp", "kmeans"):
        with pytest.raises(DistilError, match="no sample of class 3"):
            made(batch=gone, splitter=splitter)
    # Fine labels name no subclass of a class that is absent.
    with pytest.raises(DistilError, match="class 3 has 0 finer labels"):
        made(batch={**gone, "fine": gone["labels"]}, splitter="fine")


@pytest.mark.parametrize("splitter", ["lelp", "pca", "kmeans", "agglomerative", "tsne"])
def test_a_class_of_few_samples_has_fewer_subclasses(splitter: str) -> None:
    batch = samples(40)
    keep = (batch["labels"] != 3) | (torch.arange(40) < 10)
    few = {key: value[keep] for key, value in batch.items()}
    distiller = made(batch=few, splitter=splitter)
    assert of(distiller).present.sum(1).tolist() == [5, 5, 5, 2, 5]
    losses, _ = train(distiller, few)
    assert bool(losses.isfinite().all())
    one = {key: value[(batch["labels"] != 3) | (torch.arange(40) < 5)] for key, value in batch.items()}
    assert of(made(batch=one, splitter=splitter)).present.sum(1).tolist() == [5, 5, 5, 1, 5]


def test_an_embedding_too_narrow_is_refused() -> None:
    method = SubclassKD()
    with pytest.raises(DistilError, match=r"has 8 dimensions, and 10 are needed.*and of 5 classes.*null_space=False"):
        Distiller(method.rebuild(mlp(4)), mlp(8, 1), method, example=samples())
    wide = SubclassKD(null_space=False)
    Distiller(wide.rebuild(mlp(4)), mlp(8, 1), wide, example=samples()).prepare([samples()])
    many = SubclassKD(null_space=False, subclasses=9)
    with pytest.raises(DistilError, match=r"has 8 dimensions, and 9 are needed.*; give fewer subclasses\."):
        Distiller(many.rebuild(mlp(4)), mlp(8, 1), many, example=samples())
    clusters = SubclassKD(splitter="kmeans", subclasses=9)  # clusters need no dimensions of their own
    Distiller(clusters.rebuild(mlp(4)), mlp(8, 1), clusters, example=samples())


def test_two_classes_and_one() -> None:
    for classes in (1, 2):
        batch = {**samples(20), "labels": torch.arange(20) % classes}
        method = SubclassKD(subclasses=3)
        torch.manual_seed(0)
        student, teacher = MLP(6, 5, classes), MLP(6, 9, classes)
        distiller = Distiller(method.rebuild(student), teacher, method, example=batch).prepare([batch])
        losses, _ = train(distiller, batch, steps=8)
        assert float(losses[-1]) < float(losses[0])
        assert distiller.deployed()(batch["inputs"]).shape == (20, classes)


class Dead(nn.Module):
    """An embedding most of whose dimensions never move."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.body, self.head = nn.Linear(6, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs) * (torch.arange(WIDTH) < 7))


def test_dimensions_that_never_move_do_no_harm() -> None:
    batch = samples(40)
    for head in ("head", None):
        method = SubclassKD(head=head)
        distiller = Distiller(method.rebuild(mlp(4)), Dead(), method, example=batch).prepare([batch])
        assert all(bool(getattr(method, name).isfinite().all()) for name in ("directions", "scale"))
        losses, _ = train(distiller, {**batch, "inputs": batch["inputs"] + 0.1})
        assert bool(losses.isfinite().all())


class Curved(nn.Module):
    """Logits that are no linear function of the last linear layer's input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.body, self.last = nn.Linear(6, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.body(inputs)).square()


class Pointwise(nn.Module):
    """A classifier that is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(6, WIDTH), nn.Conv1d(WIDTH, CLASSES, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.body(inputs)[..., None])[..., 0]


def test_a_teacher_without_a_linear_head_is_told_to_leave_the_null_space() -> None:
    with pytest.raises(DistilError, match=r"Tap 'nothing' does not exist in the teacher \(Pointwise\)"):
        Distiller(
            SubclassKD().rebuild(mlp(4)), Pointwise(), SubclassKD(tap="body", head="nothing"), example=samples(40)
        )
    method = SubclassKD(tap="body", head="fc")
    distiller = Distiller(method.rebuild(mlp(4)), Pointwise(), method, example=samples(40))
    with pytest.raises(DistilError, match=r"'fc' is a Conv1d.*head=none, or use null_space=False"):
        distiller.prepare([samples(40)])
    for found in (SubclassKD(tap="body", head=None), SubclassKD(tap="body")):  # by least squares, as "head" is nowhere
        Distiller(found.rebuild(mlp(4)), Pointwise(), found, example=samples(40)).prepare([samples(40)])
        weight = Pointwise().fc.weight.shape
        assert found.directions.shape[1] == weight[1]
    bent = SubclassKD(tap="body", head=None)
    distiller = Distiller(bent.rebuild(mlp(4)), Curved(), bent, example=samples(40))
    with pytest.raises(DistilError, match=r"not linear in the embedding.*null_space=False"):
        distiller.prepare([samples(40)])


def test_samples_without_ids_are_refused_where_they_are_looked_up() -> None:
    nameless = {key: value for key, value in samples(40).items() if key != "id"}
    made(batch=nameless)
    for options in ({"targets": "cached"}, {"splitter": "kmeans"}):
        with pytest.raises(DistilError, match="by 'id'"):
            made(batch=nameless, **options)
        prepared = made(**options)
        with pytest.raises(DistilError, match="by 'id'"):  # of a batch that is trained on too
            prepared(nameless)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_embeddings_that_are_all_equal_give_no_clusters() -> None:
    method, teacher = SubclassKD(splitter="kmeans"), mlp(WIDTH, 1)
    for p in list(teacher.parameters())[:-2]:
        p.data.zero_()
    distiller = Distiller(method.rebuild(mlp(4)), teacher, method, example=samples(40))
    with pytest.raises(DistilError, match="5 clusters of class 0 were asked for, and 1 came back"):
        distiller.prepare([samples(40)])


def test_of_a_sample_in_several_views_the_first_is_kept() -> None:
    batch = samples(40)
    again = {key: torch.cat([value, value]) for key, value in batch.items()}
    again["inputs"][40:] += 1
    distiller = made(batch=again, targets="cached", rotate=False)
    kept = distiller(batch).loss
    of(distiller).cached = False
    torch.testing.assert_close(kept, distiller(batch).loss)


def test_a_fresh_method_takes_over_stored_targets() -> None:
    first = made(targets="cached", splitter="kmeans")
    second = SubclassKD(targets="cached", splitter="kmeans")
    torch.manual_seed(8)
    fresh = Distiller(second.rebuild(mlp(4)), mlp(WIDTH, 1), second, example=samples(8))
    fresh.load_state_dict(first.state_dict())
    fresh.prepared = True
    assert torch.equal(fresh.eval()(samples(40)).loss, first.eval()(samples(40)).loss)


def test_the_bare_method_has_a_name_of_its_own() -> None:
    assert parse("subclasskd(subclasses=3)").expression == "subclasskd(subclasses=3)"
    assert list(parse("lelp(alpha=0.5)").methods) == ["supervised", "subclasskd"]
