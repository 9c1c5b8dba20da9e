"""PKT, CC, NST, CRD and MLLD against plain float64 loops, and the properties that their papers claim."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax

import distil.functional as D
from distil.errors import DistilError

from .oracles import normal

S, T = normal(5, 4), normal(5, 7, seed=1)
MAPS = normal(3, 4, 3, 3), normal(3, 2, 3, 3, seed=1)


def neighbours(rows: np.ndarray, eps: float = 1e-7) -> np.ndarray:
    unit = [row / (math.sqrt(sum(v * v for v in row)) + eps) for row in rows]
    table = np.array([[(float(np.dot(a, b)) + 1) / 2 for b in unit] for a in unit])
    return np.array([row / row.sum() for row in table])


def test_pkt() -> None:
    ours, theirs = neighbours(S.numpy()), neighbours(T.numpy())
    expected = sum(
        theirs[i, j] * math.log((theirs[i, j] + 1e-7) / (ours[i, j] + 1e-7)) for i in range(5) for j in range(5)
    )
    assert D.pkt(S, T).item() == pytest.approx(expected / 25, rel=1e-12)


def test_pkt_ignores_the_scale_of_each_sample_and_the_order_of_the_batch() -> None:
    scale = torch.tensor([[2.0], [0.1], [30.0], [1.0], [5.0]], dtype=torch.float64)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(D.pkt(scale * S, T), D.pkt(S, T), rtol=1e-5, atol=0)
    torch.testing.assert_close(D.pkt(S[order], T[order]), D.pkt(S, T))


@pytest.mark.parametrize("loss", [D.pkt, lambda s, t: D.crd(s, t[:, :4], *BANKS, INDEX[:5])])
def test_an_all_zero_sample_gets_no_gradient(loss: object) -> None:
    student = S.clone()
    student[2] = 0
    student.requires_grad_()
    loss(student, T).backward()  # type: ignore[operator]
    assert student.grad is not None
    assert student.grad[2].abs().max() == 0
    assert student.grad[0].abs().max() > 0


def test_correlation_congruence() -> None:
    other = normal(5, 4, seed=3)
    gap = np.abs((S - other).numpy())
    expected = np.mean([float(np.dot(gap[i], gap[i + 1])) for i in range(4)])
    assert D.correlation_congruence(S, other).item() == pytest.approx(expected, rel=1e-12)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert D.correlation_congruence(S[order], other[order]).item() != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kernel", ["gaussian", "bilinear"])
def test_kernel_congruence(kernel: str) -> None:
    def table(rows: np.ndarray) -> np.ndarray:
        products = np.array([[float(np.dot(a, b)) for b in rows] for a in rows])
        if kernel == "bilinear":
            return products
        return math.exp(-0.6) * (1 + 0.6 * products + 0.6**2 / 2 * products**2 + 0.6**3 / 6 * products**3)

    expected = math.sqrt(((table(S.numpy()) - table(T.numpy())) ** 2).sum()) / 25
    found = D.kernel_congruence(S, T, kernel=kernel, gamma=0.3, order=3)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(D.kernel_congruence(S[order], T[order], kernel=kernel, gamma=0.3, order=3), found)


def test_the_gaussian_is_the_limit_of_its_expansion() -> None:
    unit = torch.nn.functional.normalize(S, dim=1)
    exact = torch.exp(-0.4 * torch.cdist(unit, unit) ** 2)
    torch.testing.assert_close(D.correlation_kernel(unit, order=20), exact)


def test_neuron_selectivity() -> None:
    def patterns(maps: torch.Tensor) -> list[np.ndarray]:
        return [np.array([c.ravel() / np.sqrt((c**2).sum()) for c in image]) for image in maps.numpy()]

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([[np.dot(x, y) ** 2 for x in a] for y in b]))

    expected = [mean(a, a) + mean(b, b) - 2 * mean(a, b) for a, b in zip(*map(patterns, MAPS))]
    torch.testing.assert_close(D.nst(*MAPS, reduction="none"), torch.tensor(expected, dtype=torch.float64))


def test_neuron_selectivity_ignores_order_and_scale_of_channels() -> None:
    scale = torch.tensor([2.0, 0.1, 9.0, 1.0], dtype=torch.float64)[None, :, None, None]
    torch.testing.assert_close(D.nst(scale * MAPS[0].flip(1), MAPS[1]), D.nst(*MAPS))


BANKS = normal(8, 4, seed=5), normal(8, 4, seed=6)
INDEX = torch.tensor([[0, 3, 4, 7], [1, 5, 2, 2], [2, 0, 1, 6], [3, 0, 5, 1], [7, 4, 4, 0]])
HEAT = 0.5


def contrast(emb: np.ndarray, bank: np.ndarray) -> tuple[np.ndarray, float]:
    """The published formula, score by score, with Z from this batch."""
    unit = [row / math.sqrt(sum(v * v for v in row)) for row in emb]
    scores = np.array([[math.exp(float(np.dot(e, bank[j])) / HEAT) for j in row] for e, row in zip(unit, INDEX)])
    z = scores.mean() * len(bank)
    noise, eps, losses = (INDEX.shape[1] - 1) / len(bank), 1e-7, []
    for row in scores / z:
        positive = -math.log(row[0] / (row[0] + noise + eps))
        losses.append(positive - sum(math.log(noise / (p + noise + eps)) for p in row[1:]))
    return np.array(losses), z


def test_contrast_with_memories() -> None:
    theirs = normal(5, 4, seed=2)
    ours, z_ours = contrast(S.numpy(), BANKS[1].numpy())
    other, z_other = contrast(theirs.numpy(), BANKS[0].numpy())
    found = D.crd(S, theirs, *BANKS, INDEX, temperature=HEAT, reduction="none")
    torch.testing.assert_close(found, torch.tensor(ours + other, dtype=torch.float64))
    kept = tuple(torch.tensor(math.log(z), dtype=torch.float64) for z in (z_ours, z_other))
    torch.testing.assert_close(D.crd(S, theirs, *BANKS, INDEX, temperature=HEAT, log_z=kept, reduction="none"), found)


def test_scores_are_the_same_gathered_or_all_at_once() -> None:
    long = torch.cat([BANKS[0]] * 9)  # 72 rows for 4 columns: gathered
    emb = S.clone().requires_grad_()
    few, many = D.bank_logits(emb, BANKS[0], INDEX), D.bank_logits(emb, long, INDEX + 8)
    torch.testing.assert_close(few, many)
    slopes = [torch.autograd.grad(scores.square().sum(), emb, retain_graph=True)[0] for scores in (few, many)]
    torch.testing.assert_close(*slopes)


def test_no_score_overflows_where_the_published_form_does() -> None:
    rows = torch.eye(3)
    loss = D.crd(rows, rows, rows, -rows, torch.tensor([[0, 1, 2], [1, 0, 2], [2, 0, 1]]), temperature=0.005)
    assert torch.exp(torch.tensor(1 / 0.005)).isinf()
    assert loss.isfinite()


def test_remembered_rows_move_and_keep_length_one() -> None:
    moved = D.bank_rows(BANKS[0][:5], S, momentum=0.3)
    for row, old, new in zip(moved.numpy(), BANKS[0].numpy(), S.numpy()):
        mixed = 0.3 * old + 0.7 * new / np.linalg.norm(new)
        np.testing.assert_allclose(row, mixed / np.linalg.norm(mixed))


LOGITS = [normal(6, 5, seed=seed) for seed in range(4)]


def predictions(logits: torch.Tensor, temperature: float) -> np.ndarray:
    return softmax(logits.numpy() / temperature, axis=1)


@pytest.mark.parametrize("level", ["batch", "class"])
def test_relations_of_predictions(level: str) -> None:
    p, q = (predictions(z, 3.0) for z in LOGITS[:2])
    if level == "class":
        p, q = p.T, q.T
    total = sum((np.dot(p[i], p[j]) - np.dot(q[i], q[j])) ** 2 for i in range(len(p)) for j in range(len(p)))
    relation = D.batch_relation if level == "batch" else D.class_relation
    assert relation(*LOGITS[:2], temperature=3.0).item() == pytest.approx(total / len(p), rel=1e-12)


def test_levels_are_summed_over_temperatures_and_halved_by_the_masks() -> None:
    s, t, s_strong, t_strong = LOGITS
    found = D.multilevel(s, t, s_strong, t_strong, temperature=4.0)
    samples, classes = D.unsure_share(t)
    sure = predictions(t, 1.0)
    assert samples.item() == np.mean(sure.max(1) <= np.percentile(sure.max(1), 50))
    assert classes.item() == np.mean(sure.sum(0) <= np.percentile(sure.sum(0), 50))
    weak = sum(D.kl(s, t, temperature=x) for x in (4.0, 3.0, 5.0, 2.0, 6.0))
    strong = sum(D.kl(s_strong, t_strong, temperature=x) for x in (4.0, 3.0, 5.0))
    quirk = sum(D.kl(s, t, temperature=x) for x in (2.0, 6.0))
    torch.testing.assert_close(found["instance"].mean(), samples * weak + strong + quirk)
    alone = D.multilevel(s, t, temperature=4.0)
    torch.testing.assert_close(alone["instance"].mean(), samples * weak)
    torch.testing.assert_close(alone["batch"], found["batch"])


def test_standardised_levels_ignore_shift_and_scale_of_the_logits() -> None:
    s, t, _, _ = LOGITS
    changed = 3 * s + torch.arange(6.0, dtype=torch.float64)[:, None]
    found, again = (D.multilevel(z, t, temperature=2.0, standardised=True) for z in (s, changed))
    torch.testing.assert_close(found["instance"], again["instance"], rtol=1e-5, atol=1e-9)
    assert not torch.allclose(found["batch"], again["batch"], rtol=1e-2)  # the relations keep theirs


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: D.pkt(S, T[:4]), r"teacher's embedding is \(4, 7\) but \(5, D\) is expected"),
        (lambda: D.correlation_congruence(S, T), r"student gives \(5, 4\) and the teacher \(5, 7\)"),
        (lambda: D.correlation_kernel(S, kernel="gauss"), "did you mean 'gaussian'"),
        (lambda: D.correlation_kernel(S, order=-1), "order=-1 must not be below 0"),
        (lambda: D.nst(S, T), "tap convolutional stages"),
        (lambda: D.bank_logits(S, BANKS[0][:, :3], INDEX), r"the bank is \(8, 3\) but \(N, 4\) is expected"),
        (lambda: D.bank_logits(S, BANKS[0], INDEX[:2]), r"the index is \(2, 4\) but \(5, 1 \+ K\)"),
        (lambda: D.noise_contrast(S[:, :1], 9), "0 negatives out of 9 rows"),
        (lambda: D.crd(S, T, *BANKS, INDEX), "embed both to one width"),
        (lambda: D.batch_relation(MAPS[0], MAPS[0]), r"but \(B, C\) is expected"),
        (lambda: D.multilevel(*LOGITS[:3]), "only one side has a strong view"),
    ],
)
def test_what_does_not_fit_is_refused(call: object, says: str) -> None:
    with pytest.raises(DistilError, match=says):
        call()  # type: ignore[operator]
