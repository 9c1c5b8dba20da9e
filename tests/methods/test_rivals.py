"""The rivals of image classification: what each reads and refuses, and what CRD remembers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import distil.functional as D
from distil.data import Batches, DictDataset, TwoViews, indexed
from distil.engine import Distiller, fit
from distil.engine.method import Method
from distil.engine.trace import Trace
from distil.errors import DistilError
from distil.methods import (
    AT,
    CATKD,
    CC,
    CRD,
    DIST,
    DKD,
    LSKD,
    MLLD,
    NST,
    PKT,
    RKD,
    SP,
    VID,
    FitNets,
    ReviewKD,
    SimKD,
    Supervised,
)
from distil.methods.bank import READ_EVERY
from distil.methods.draws import distinct, mixed
from engine import toys

DATA = toys.images(24)
BATCH = toys.batch(DATA, 8)
VIEWS = toys.batch(toys.two_views(24), 8)


def made(method: Any, make: Any = toys.CNN, batch: Any = None, **options: Any) -> Distiller:
    distiller = Distiller(*toys.pair(make), method, example=BATCH if batch is None else batch, steps=9, **options)
    if not distiller.prepared:
        distiller.prepare(DATA)
    distiller.watch()
    return distiller


def terms(distiller: Distiller, batch: Any = None) -> tuple[Any, Any, dict[str, Tensor]]:
    """The traces of student and teacher on one batch, and the values of the first component."""
    batch = BATCH if batch is None else batch
    student, teacher = distiller.cast.handles()
    component = next(iter(distiller.method))
    found = component.method(student, teacher, batch, distiller.ctx)
    return student(batch), teacher(batch), {name: term.values for name, term in found.items()}


# --- what is compared -------------------------------------------------------------------------------------------------


def test_sp_reads_the_last_map_or_an_embedding() -> None:
    s, t, found = terms(made(SP()))
    torch.testing.assert_close(found["sp"].mean(), D.sample_gram(s["map"], t["map"]))
    s, t, found = terms(made(SP(tap="emb")))
    torch.testing.assert_close(found["sp"].mean(), D.sample_gram(s["emb"], t["emb"]))


def test_sp_gives_a_dead_map_no_gradient() -> None:
    method = SP(tap="emb")
    rows = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, -1.0]], requires_grad=True)
    teacher = type("T", (dict,), {"role": "teacher"})(emb=torch.randn(3, 4))
    student = type("S", (dict,), {"role": "student"})(emb=rows)
    value = method(lambda b: student, lambda b: teacher, {}, None)["sp"].values.sum()
    (slope,) = torch.autograd.grad(value, rows)
    assert slope.isfinite().all()
    assert slope[0].abs().max() == 0
    assert slope[1].abs().max() > 0


def test_nst_sums_over_stages() -> None:
    s, t, found = terms(made(NST()))
    pairs = list(zip(s["stages"], t["stages"], strict=True))
    assert len(pairs) == 2
    torch.testing.assert_close(found["nst"], sum(D.nst(a, b, reduction="none") for a, b in pairs))


def test_cc_embeds_both_and_trains_both_layers() -> None:
    distiller = made(CC())
    method = distiller.method.components[0].method
    s, t, found = terms(distiller)
    embedded = method.student_embed(s["emb"]), method.teacher_embed(t["emb"])
    assert embedded[0].shape == (8, 128)
    torch.testing.assert_close(found["cc"].mean(), D.correlation_congruence(*embedded))
    assert len(distiller.groups()["cc"]) == 4
    assert distiller.deployed() is distiller.student


def test_cc_in_the_papers_form_needs_no_layers() -> None:
    s, t, found = terms(made(CC(variant="paper", dim=0, kernel="bilinear")))
    torch.testing.assert_close(found["cc"], D.kernel_congruence(s["emb"], t["emb"], kernel="bilinear"))


@pytest.mark.parametrize("over", ["kd", "dkd"])
def test_standardised_logits_have_neither_shift_nor_scale(over: str) -> None:
    distiller = made(LSKD(over=over))
    s, t, found = terms(distiller)
    ours, theirs, y = D.standardise(s.logits), D.standardise(t.logits), BATCH["labels"]
    expected = D.kl(ours, theirs, temperature=2) if over == "kd" else D.dkd(ours, theirs, y, temperature=2)
    torch.testing.assert_close(sum(v.mean() for v in found.values()), expected)
    with torch.no_grad():
        distiller.student.head.weight.mul_(5)
        distiller.student.head.bias.mul_(5).add_(3)
    _, _, again = terms(made_of(distiller, LSKD(over=over)))
    for name, values in found.items():
        torch.testing.assert_close(again[name], values, rtol=1e-3, atol=1e-4)


def test_standardising_needs_all_logits() -> None:
    targets = D.SparseTargets(torch.tensor([[1]]), torch.tensor([[0.0]]), 3, 2.0, "topk1")
    distiller = made(LSKD())
    teacher = Trace("teacher", targets, {}, {}, distiller.task)
    with pytest.raises(DistilError, match="all of its logits were asked for"):
        LSKD().setup(terms(distiller)[0], teacher)


def made_of(distiller: Distiller, method: Method) -> Distiller:
    """A fresh distiller on the same models."""
    return Distiller(distiller.student, copy.deepcopy(distiller.teachers["model"]), method, example=BATCH)


def test_mlld_is_its_parts_on_two_views() -> None:
    distiller = made(MLLD(task=0.2, weight=0.5), batch=VIEWS)
    _, _, found = terms(distiller, VIEWS)
    student, teacher = distiller.cast.handles()
    strong = {"inputs": VIEWS["strong"]}
    weak_s, weak_t, strong_s, strong_t = (h(b).logits for b in (VIEWS, strong) for h in (student, teacher))
    parts = D.multilevel(weak_s, weak_t, strong_s, strong_t, temperature=4.0)
    for name, values in parts.items():
        torch.testing.assert_close(found[name], 0.5 * values, rtol=1e-4, atol=1e-6)
    hard = sum(nn.functional.cross_entropy(z, VIEWS["labels"], reduction="none") for z in (weak_s, strong_s))
    torch.testing.assert_close(found["task"], 0.2 * hard, rtol=1e-4, atol=1e-6)


def test_mlld_with_one_view_leaves_the_strong_parts_out() -> None:
    s, t, found = terms(made(MLLD(views=1, task=0)))
    assert set(found) == {"instance", "batch", "class"}
    parts = D.multilevel(s.logits, t.logits, temperature=4.0)
    torch.testing.assert_close(found["instance"], 0.9 * parts["instance"])


def test_mlld_says_that_it_holds_the_task_unless_it_does_not() -> None:
    with pytest.warns(UserWarning, match="Supervised\\(\\) counts it twice"):
        made(Supervised() + MLLD(views=1))
    assert not MLLD(task=0).contains_task
    assert not LSKD().contains_task


def test_unlabelled_samples_weigh_nothing_in_the_task_of_mlld() -> None:
    batch = {**VIEWS, "labels": VIEWS["labels"].clone()}
    batch["labels"][:3] = -100
    distiller = made(MLLD(weight=0), batch=VIEWS)
    method = distiller.method.components[0].method
    assert method.counts(batch)["task"] == 5
    assert distiller(batch).loss.isfinite()


def test_standardised_mlld_keeps_relations_and_task() -> None:
    plain, standard = (terms(made(MLLD(temperature=2, standardised=on), batch=VIEWS), VIEWS)[2] for on in (False, True))
    for name in ("batch", "class", "task"):
        torch.testing.assert_close(plain[name], standard[name])
    assert not torch.allclose(plain["instance"], standard["instance"])


def test_standardisation_over_mlld_holds_no_task_loss() -> None:
    found = terms(made(LSKD(over="mlld"), batch=VIEWS), VIEWS)[2]
    whole = terms(made(MLLD(temperature=2, weight=9, standardised=True), batch=VIEWS), VIEWS)[2]
    assert {*whole} - {*found} == {"task"}
    for name, values in found.items():
        torch.testing.assert_close(9 * values, whole[name])


@pytest.mark.filterwarnings("error:.*counts it twice")
@pytest.mark.parametrize("over", ["kd", "dkd", "mlld"])
def test_the_published_sum_counts_labels_once(over: str) -> None:
    """Of one view it is MLLD's whole published sum; of two that has cross-entropy on the strong view beside it."""
    distiller = made(0.1 * Supervised() + 9 * LSKD(over=over, views=1))
    loss = distiller.eval()(BATCH).loss
    own = 9 * sum(values.mean() for values in terms(made(LSKD(over=over, views=1)).eval())[2].values())
    logits = distiller.student(BATCH["inputs"])
    torch.testing.assert_close(loss, own + 0.1 * nn.functional.cross_entropy(logits, BATCH["labels"]))
    if over == "mlld":
        whole = made(MLLD(temperature=2, weight=9, standardised=True, views=1)).eval()
        torch.testing.assert_close(loss, whole(BATCH).loss)


def test_two_views_are_of_one_sample_and_resume() -> None:
    data = TwoViews(DATA, strong=lambda x: x + torch.rand(()), weak=lambda x: x.flip(-1))
    first, again = (next(Batches(data, 8, seed=3, shuffle=True).iterate(1)) for _ in range(2))
    position = {int(i): k for k, i in enumerate(DATA.ids)}
    original = DATA.inputs[[position[int(i)] for i in first["id"]]]
    assert torch.equal(first["inputs"], original.flip(-1))
    shift = (first["strong"] - original).flatten(1)
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift))
    assert len(shift[:, 0].unique()) == 8
    assert torch.equal(first["strong"], again["strong"])


def test_mlld_trains_on_two_views_through_fit() -> None:
    data = TwoViews(DATA, strong=lambda x: 0.7 * x.flip(-1))
    distiller = Distiller(*toys.pair(toys.CNN), MLLD(), example=next(iter(Batches(data, 6, seed=0, shuffle=False))))
    result = toys.train(distiller, data, DATA, epochs=3)
    assert toys.fell(result)


# --- what is refused --------------------------------------------------------------------------------------------------


class Tokens(nn.Module):
    """A transformer of one block on four patches and a class token."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(2, width, 4, 4)
        self.blocks = nn.Sequential(*[nn.TransformerEncoderLayer(width, 1, width, batch_first=True) for _ in range(2)])
        self.head = nn.Linear(width, toys.CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        patches = self.patch(inputs).flatten(2).mT
        return self.head(self.blocks(torch.cat([patches.mean(1, keepdim=True), patches], 1))[:, 0])


@pytest.mark.parametrize("method", [PKT(), CC(), CRD(negatives=4), LSKD(), SP(tap="emb"), MLLD(views=1)])
def test_what_reads_embeddings_or_logits_fits_a_transformer(method: Method) -> None:
    assert made(method, Tokens)(BATCH).loss.isfinite()


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (SP(), "use a method on logits or embeddings"),
        (
            SP(tap="tokens"),
            r"gives \[8, 5, 4\] \(where they lie is not certain: 5 are not 2x2 patches.* sp\(tap='emb'\)",
        ),
        (NST(), r"use a method on logits or embeddings \(kd, dkd, dist, rkd"),
        (NST(taps=["tokens"]), "num_prefix_tokens on a model of your own"),
        (PKT(tap="tokens"), r"pkt compares embeddings \[N, D\]; tap 'tokens' of the student gives \[8, 5, 4\]"),
        (CC(tap="tokens"), r"cc\(tap='emb'\)"),
        (CRD(tap="tokens"), r"crd\(tap='emb'\)"),
    ],
)
def test_tokens_are_not_reshaped_silently(method: Method, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        made(method, Tokens)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (lambda: CC(variant="papr"), "did you mean 'paper'"),
        (lambda: CC(kernel="gauss"), "did you mean 'gaussian'"),
        (lambda: CC(dim=-1), "must not be below 0"),
        (lambda: CRD(mode="relaxed"), "did you mean 'relax'"),
        (lambda: CRD(negatives=0), "must be at least 1"),
        (lambda: CRD(momentum=2), "within 0 … 1"),
        (lambda: LSKD(over="kdd"), "did you mean 'kd'"),
        (lambda: LSKD(over="dkd", temperature=0), "must be above 0"),
        (lambda: MLLD(temperature=-1), "must be above 0"),
        (lambda: MLLD(views=3), "must be 2"),
        (lambda: MLLD(task=0, weight=0), r"mlld\(task=0, weight=0\) teaches nothing"),
        (lambda: DKD(temperature=0), r"dkd\(temperature=0\) must be above 0"),
        (lambda: DKD(alpha=0, beta=0), r"dkd\(alpha=0, beta=0\) compares nothing"),
        (lambda: LSKD(over="dkd", alpha=0, beta=0), "compares nothing"),
        (lambda: DIST(temperature=-1), r"dist\(temperature=-1\) must be above 0"),
        (lambda: DIST(beta=0, gamma=0), r"dist\(beta=0, gamma=0\) compares nothing"),
        (lambda: AT(p=0), r"at\(p=0, variant=code\) must be above 0"),
        (lambda: AT(p=1.5), "a whole number for 'code'"),
        (lambda: CC(variant="paper", gamma=0), "nothing is compared"),
        (lambda: CC(variant="paper", order=0), "nothing is compared"),
        (lambda: VID(variance=0), r"vid\(variance=0, eps=1e-05\): variance must be above eps"),
        (lambda: SimKD(factor=0), r"simkd\(factor=0\).* at least 1"),
        (lambda: made(CC(dim=0)), "give dim=128, or variant='paper'"),
        (lambda: made(NST(), batch=toys.batch(toys.vectors(), 8), make=toys.mlp), "has no tap 'stages'"),
        (lambda: made(NST(taps=[("stages", "one")])), "the student has 2 maps and the teacher 1"),
        (lambda: made(SP(tap="stages")), "gives 2 outputs"),
        (lambda: made(MLLD())(BATCH), r"has no 'strong' .*mlld\(views=1\)"),
        (lambda: made(MLLD())({**BATCH, "strong": torch.zeros(8, 2, 4, 4)}), r"strong view is \(8, 2, 4, 4\)"),
        (lambda: TwoViews(DATA, strong="flip"), "give a function of one sample"),
    ],
)
def test_what_does_not_fit_is_refused(method: Any, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        method()


@pytest.mark.parametrize(
    "method",
    [
        lambda: ReviewKD(pooled=""),
        lambda: SP(tap=""),
        lambda: RKD(tap=("emb", "")),
        lambda: FitNets(tap=""),
        lambda: CATKD(head=""),
        lambda: AT(taps=["one", ""]),
    ],
)
def test_an_empty_tap_is_no_tap(method: Any) -> None:
    """The empty path is that of the whole model: its scores would stand in for what was to be named."""
    with pytest.raises(DistilError, match=r"A tap of the (student|teacher) \(CNN\) has an empty name"):
        made(method())


def test_one_weight_of_two_is_enough() -> None:
    for method in (DKD(alpha=0), DKD(beta=0), DIST(beta=0), DIST(gamma=0), MLLD(views=1, task=0)):
        assert made(method)(BATCH).loss.isfinite()
    assert AT(p=1.5, variant="paper").p == 1.5
    assert CC(order=0, gamma=0).variant == "code"  # which reads neither


@pytest.mark.parametrize("method", [SP(), PKT(), NST(), CC(), CC(variant="paper"), CRD(negatives=4), LSKD(), AT()])
def test_an_all_zero_map_gives_finite_gradients(method: Method) -> None:
    distiller = made(method, lambda width: toys.CNN(width, norm=False))
    with torch.no_grad():
        for stage in (distiller.student.one, distiller.student.two):
            stage[0].weight.zero_(), stage[0].bias.fill_(-1.0)
    distiller(BATCH).loss.backward()
    assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)


# --- what CRD remembers -----------------------------------------------------------------------------------------------


def crd(**options: Any) -> tuple[Distiller, CRD]:
    distiller = made(CRD(**{"negatives": 6, "dim": 5, **options}), lambda width: toys.CNN(width, norm=False))
    return distiller, distiller.method.components[0].method


def test_negatives_are_others_of_other_classes_and_the_positive_is_the_sample() -> None:
    _, method = crd()
    bank = method.bank
    labels = dict(zip(DATA.ids.tolist(), DATA.labels.tolist()))
    ids_of_rows = {int(place): int(i) for i, place in zip(bank.ids, bank.places)}
    assert {i: int(bank.labels[row]) for row, i in ids_of_rows.items()} == labels
    rows = bank.find(BATCH["id"])
    index = bank.draw(rows, 6, keys=torch.arange(8))
    assert torch.equal(index[:, 0], rows)
    for row in index.tolist():
        found = [labels[ids_of_rows[r]] for r in row]
        assert found[0] not in found[1:]
        assert len(set(row)) == 7  # there are enough, so none comes twice
    reached = bank.draw(rows[:1], 5000, keys=torch.tensor([0]))[0, 1:].unique()
    assert len(reached) == sum(label != labels[int(BATCH["id"][0])] for label in labels.values())
    relaxed = bank.draw(rows, 6, keys=torch.arange(8), relaxed=True)[:, 0]
    assert torch.equal(bank.labels[relaxed], bank.labels[rows])
    assert not torch.equal(relaxed, rows)


def test_a_step_moves_the_rows_of_its_samples_and_freezes_the_constants() -> None:
    distiller, method = crd()
    before = method.bank.teacher.clone()
    assert method.bank.log_z.isnan().all()
    distiller(BATCH)
    first = method.bank.log_z.clone()
    assert first.isfinite().all()
    assert torch.equal(method.bank.teacher, before)  # not within the step
    distiller.after_step()
    rows = method.bank.find(BATCH["id"])
    _, teacher = distiller.cast.handles()
    embedded = method.teacher_embed(teacher(BATCH)["emb"])
    torch.testing.assert_close(method.bank.teacher[rows], D.bank_rows(before[rows], embedded))
    others = torch.ones(len(before), dtype=torch.bool)
    others[rows] = False
    assert torch.equal(method.bank.teacher[others], before[others])
    distiller.cast.forget()
    distiller(BATCH)
    assert torch.equal(method.bank.log_z, first)


def test_a_measured_loss_moves_nothing_and_repeats() -> None:
    distiller, method = crd()
    distiller.eval()
    before = toys.state(distiller)
    losses = [distiller(BATCH).loss for _ in range(2)]
    assert torch.equal(*losses)
    assert all(torch.equal(a, b) or a.isnan().all() for a, b in zip(before.values(), distiller.state_dict().values()))
    assert not method._pending


def test_the_term_is_the_published_formula() -> None:
    distiller, method = crd(temperature=0.2)
    s, t, found = terms(distiller)
    index = method.bank.draw(method.bank.find(BATCH["id"]), 6, keys=method._keys(BATCH["id"], distiller.ctx))
    embedded = method.student_embed(s["emb"]), method.teacher_embed(t["emb"])
    expected = D.crd(*embedded, method.bank.student, method.bank.teacher, index, temperature=0.2, reduction="none")
    torch.testing.assert_close(found["crd"], expected)


def test_a_skipped_step_is_forgotten() -> None:
    distiller, method = crd()
    distiller(BATCH)
    distiller.skip_step()
    distiller(toys.batch(DATA, 4, 12))
    before = method.bank.student.clone()
    distiller.after_step()
    moved = (method.bank.student != before).any(1).nonzero().flatten()
    assert torch.equal(moved, method.bank.find(DATA.ids[12:16]).sort().values)


def test_samples_without_a_label_are_neither_taught_nor_negatives() -> None:
    labels = DATA.labels.clone()
    labels[:4] = -100
    data = DictDataset(DATA.inputs, labels, DATA.ids)
    distiller = Distiller(*toys.pair(toys.CNN), CRD(negatives=6), example=toys.batch(data, 8))
    distiller.prepare(data)
    distiller.watch()
    assert len(distiller.method.components[0].method.bank.ids) == 20
    assert distiller(toys.batch(data, 8)).loss.isfinite()
    assert distiller(toys.batch(data, 4)).loss.item() == 0


def test_memories_resume_to_the_bit(tmp_path: Path) -> None:
    def run(name: str, stop: int = 0) -> dict[str, Tensor]:
        def progress(step: int, steps: int) -> None:
            if step == stop:
                raise KeyboardInterrupt

        method = Supervised() + 0.1 * CRD(negatives=6, dim=5)
        distiller = Distiller(*toys.pair(toys.CNN), method, example=BATCH)
        given = {"out": tmp_path / name, "resume": True, "save_every": 1, "progress": progress, "keep": "last"}
        toys.train(distiller, DATA, DATA, **given)
        return toys.state(distiller)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("broken", stop=5)
    assert toys.same(whole, run("broken"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([{"inputs": DATA.inputs[:6], "labels": DATA.labels[:6]}], "wrap the dataset in distil.data.indexed"),
        ([{"weak": BATCH, "strong": BATCH}], r"crd reads labels, and the batch has none \(it has weak, strong\)"),
        (DictDataset(DATA.inputs[:6], torch.zeros(6).long()), "are of 1 class"),
        (DictDataset(DATA.inputs[:6]), "the 0 labelled samples are of 0 class"),
    ],
)
def test_data_without_what_crd_needs(data: Any, says: str) -> None:
    distiller = Distiller(*toys.pair(toys.CNN), CRD(), example=BATCH)
    with pytest.raises(DistilError, match=says):
        distiller.prepare(data)


def test_a_sample_that_was_not_there_is_named() -> None:
    distiller, _ = crd()
    stranger = {**BATCH, "id": torch.cat([BATCH["id"][:7], torch.tensor([999])])}
    with pytest.raises(DistilError, match="remembers 24 labelled samples, and id 999 is not among them"):
        distiller(stranger)


class OnDevice(torch.Tensor):
    """Ids that say that they lie on an accelerator."""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


def test_on_a_device_a_sample_that_was_not_there_is_named_later() -> None:
    """Nothing waits in a step: the ids are looked at together, after so many batches or at the end of an epoch."""
    distiller, method = crd()
    bank = method.bank
    ids = BATCH["id"].as_subclass(OnDevice)
    stranger = torch.cat([BATCH["id"][:7], torch.tensor([999])]).as_subclass(OnDevice)
    with HostWaits() as waits:
        assert torch.equal(bank.find(ids).as_subclass(Tensor), bank.places[torch.searchsorted(bank.ids, BATCH["id"])])
        waits.seen.remove("equal")  # the test's own
        bank.find(stranger)
    assert waits.seen == []
    with pytest.raises(DistilError, match="id 999 is not among them"):
        distiller.end_epoch()
    distiller.end_epoch()  # what was said once is not said again
    for k in range(READ_EVERY - 1):
        bank.find(ids if k else stranger)
    with pytest.raises(DistilError, match="id 999 is not among them"):
        bank.find(ids)


def test_plain_pairs_get_ids_from_the_loader() -> None:
    pairs = indexed(torch.utils.data.TensorDataset(DATA.inputs, DATA.labels))
    distiller = Distiller(*toys.pair(toys.CNN), CRD(negatives=6), example=BATCH)
    result = fit(distiller, pairs, epochs=1, batch_size=12, check_teacher=False, device="cpu")
    assert result.history


class HostWaits(TorchDispatchMode):
    """Counts what would wait for a device: a number or a shape that is read from a tensor's values."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put_") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1] or ()
        )
        if name in self.WAITS or masks:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_drawing_and_remembering_wait_for_no_device() -> None:
    distiller, method = crd()
    toys.step(distiller_with_sgd(distiller), BATCH)  # the first step reads that there are no constants yet
    bank, ids = method.bank, BATCH["id"]
    with HostWaits() as waits:
        rows = bank.places[torch.searchsorted(bank.ids, ids)]  # `find` looks for strangers at once on a CPU
        index = bank.draw(rows, 6, keys=method._keys(ids, distiller.ctx), relaxed=True)
        bank.constants([], index, temperature=0.1, keep=True)
        embedded = torch.randn(8, 5)
        bank.remember([(rows, torch.ones(8).long(), embedded, embedded)], 0.5)
    assert waits.seen == []
    with HostWaits() as waits:
        torch.arange(3)[torch.tensor([True, False, True])].max().item()
    assert waits.seen == ["index", "_local_scalar_dense"]


def distiller_with_sgd(distiller: Distiller) -> Distiller:
    object.__setattr__(distiller, "sgd", distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.0)))
    return distiller


def test_a_sample_seen_twice_in_a_step_moves_once_and_unlabelled_ones_never() -> None:
    _, method = crd()
    bank = method.bank
    before, emb = bank.student.clone(), torch.randn(5, 5)
    rows, kept = torch.tensor([3, 7, 3, 0, 7]), torch.tensor([1, 1, 1, 0, 0])
    bank.remember([(rows[:2], kept[:2], emb[:2], emb[:2]), (rows[2:], kept[2:], emb[2:], emb[2:])], 0.5)
    expected = before.clone()
    expected[3] = D.bank_rows(before[3:4], emb[2:3])[0]
    expected[7] = D.bank_rows(before[7:8], emb[1:2])[0]
    torch.testing.assert_close(bank.student, expected, rtol=0, atol=0)


def test_what_is_drawn_is_a_samples_own() -> None:
    """Neither those who share the batch nor their order matter; steps and samples do."""
    distiller, method = crd()
    ids = BATCH["id"]
    whole = method.bank.draw(method.bank.find(ids), 6, keys=method._keys(ids, distiller.ctx))
    some = ids[[5, 2]]
    part = method.bank.draw(method.bank.find(some), 6, keys=method._keys(some, distiller.ctx))
    assert torch.equal(whole[[5, 2]], part)
    distiller.ctx.step += 1
    later = method.bank.draw(method.bank.find(ids), 6, keys=method._keys(ids, distiller.ctx))
    assert not torch.equal(whole, later)
    assert len(whole[:, 1:].unique(dim=0)) > len(whole) // 2


def test_every_other_sample_is_as_likely_as_every_other() -> None:
    """Frequencies of single draws and of pairs, against what drawing without replacement gives (chi-square)."""
    size, count, keys = 17, 5, mixed(torch.arange(40000), 3)
    drawn = distinct(keys, torch.tensor(size).expand(len(keys)), count)
    assert drawn.sort(1).values.diff(dim=1).min() > 0
    for place in range(count):
        seen = drawn[:, place].bincount(minlength=size).double()
        expected = len(keys) / size
        assert ((seen - expected).square() / expected).sum() < 45  # 16 degrees of freedom: p < 1e-4 above
    gaps = (drawn[:, 3] - drawn[:, 1]) % size
    seen, expected = gaps.bincount(minlength=size)[1:].double(), len(keys) / (size - 1)
    assert ((seen - expected).square() / expected).sum() < 45
    many = distinct(keys[:9], torch.tensor(size).expand(9), 3 * size + 2)
    for row in many:
        assert set(row.bincount(minlength=size).tolist()) == {3, 4}
