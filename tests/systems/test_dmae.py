"""DMAE: what its paper promises of the mask, of the two losses, of the early stop, and of the encoder that ships."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import distil.functional as D
from distil import catalog
from distil.data import DictDataset
from distil.engine import Distiller, fit
from distil.engine.method import Sum, as_sum
from distil.errors import DistilError
from distil.loops.lab import Lab
from distil.loops.recipe import load_recipe, prepare_setup, run_recipe
from distil.loops.settings import from_yaml
from distil.methods.expression import parse
from distil.models import MaskedAutoencoder, MaskedViT, ViT, load_encoder
from distil.report.check import validate
from distil.systems.dmae import DMAE, published
from distil.tasks.base import BatchReader

from .toys import pictures, seeded

needs_data = pytest.mark.skipif(not os.environ.get("DISTIL_DATA"), reason="DISTIL_DATA names no data root")


def net(seed: int = 0, *, dim: int = 8, depth: int = 3, size: Any = 8, channels: int = 1) -> MaskedAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MaskedAutoencoder(
            size, patch=2, dim=dim, depth=depth, heads=2, channels=channels, decoder_dim=8, decoder_depth=1,
            decoder_heads=2,
        )  # fmt: skip


def made(
    method: DMAE | Sum, student: nn.Module | None = None, teacher: nn.Module | None = None, **options: Any
) -> Distiller:
    batch = options.pop("example", pictures())
    return Distiller(
        net() if student is None else student, net(1, dim=12, depth=4) if teacher is None else teacher, method,
        task="features", example=batch, **options,
    )  # fmt: skip


class Seen(nn.Module):
    """Notes the ids that a model was called with, and in which blocks it was."""

    def __init__(self, inner: MaskedAutoencoder) -> None:
        super().__init__()
        self.keep: list[Tensor] = []
        self.blocks: list[int] = []
        inner.encoder.register_forward_pre_hook(lambda *a: None)
        for k, block in enumerate(inner.encoder.blocks):
            block.register_forward_hook(lambda *a, k=k: self.blocks.append(k))
        whole = inner.encoder.tokens

        def tokens(inputs: Tensor, keep: Tensor | None = None, **rest: Any) -> Tensor:
            if keep is not None:
                self.keep.append(keep)
            return whole(inputs, keep, **rest)

        inner.encoder.tokens = tokens  # type: ignore[method-assign]


def test_the_step_is_the_sum_of_its_parts_by_hand() -> None:
    student, teacher = net(), net(1, dim=12, depth=4)
    distiller = made(DMAE(pairs=((1, 2), (2, 3)), weight=3.0, mask_ratio=0.5), student, teacher).eval()
    step, batch = distiller(pictures()), pictures()
    mask = D.patch_mask(D.patch_noise(20, 16, ids=batch["id"]), 0.5)
    prediction = student(batch["inputs"], mask.keep, mask.restore)
    pixels = D.masked_reconstruction(prediction, D.patch_targets(batch["inputs"], 2), mask.removed)
    gaps = 0.0
    heads: Any = distiller.method.methods["dmae"]
    for head, (i, j) in zip(heads.heads.each, ((1, 2), (2, 3)), strict=True):
        s = student.encoder.tokens(batch["inputs"], mask.keep, stop=i)
        gaps = gaps + D.token_distance(head(s), teacher.encoder.tokens(batch["inputs"], mask.keep, stop=j))
    torch.testing.assert_close(step.terms["dmae.reconstruction"], pixels)
    torch.testing.assert_close(step.terms["dmae.distil"], 3 * gaps)
    torch.testing.assert_close(step.loss, pixels + 3 * gaps)


def test_both_networks_see_one_mask_that_changes_with_the_step() -> None:
    student, teacher = net(), net(1, dim=12, depth=4)
    distiller = made(DMAE(pairs=((1, 2),)), student, teacher)
    ours, theirs = Seen(student), Seen(teacher)
    optimizer = distiller.watch(torch.optim.SGD(distiller.parameters(), lr=0.01))
    for _ in range(2):
        distiller(pictures()).loss.backward()
        optimizer.step()
    assert len(ours.keep) == len(theirs.keep) == 2
    for mine, other in zip(ours.keep, theirs.keep, strict=True):
        assert torch.equal(mine, other)
        assert mine.shape == (20, 4)
    assert not torch.equal(ours.keep[0], ours.keep[1])
    assert len({tuple(sorted(row)) for row in ours.keep[0].tolist()}) > 10  # drawn for each sample


def test_the_teacher_stops_at_its_last_aligned_block_with_the_very_tokens_of_the_whole_pass() -> None:
    teacher = net(1, dim=12, depth=6)
    seen = Seen(teacher)
    distiller = made(DMAE(pairs=((1, 2), (2, 4))), teacher=teacher)
    seen.blocks.clear()
    stopped = distiller(pictures())
    assert max(seen.blocks) == 4
    whole = made(DMAE(pairs=((1, 2), (2, 4))), teacher=copy.deepcopy(net(1, dim=12, depth=6)), teacher_forward="plain")
    assert torch.equal(whole(pictures()).loss, stopped.loss)


def test_the_teacher_is_in_eval_and_draws_nothing() -> None:
    teacher = net(1, dim=12, depth=4)
    teacher.encoder.blocks[0].mlp.fc1 = nn.Sequential(teacher.encoder.blocks[0].mlp.fc1, nn.Dropout(0.5))
    distiller = made(DMAE(pairs=((1, 2),), reconstruction=False), teacher=teacher).train()
    state = torch.get_rng_state()
    first = distiller(pictures()).loss
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m.training for m in teacher.modules())
    distiller.ctx.micro = 0
    assert torch.equal(distiller(pictures()).loss, first)


def test_distillation_reaches_the_student_up_to_its_block_and_the_head_alone() -> None:
    student, teacher = net(), net(1, dim=12, depth=4)
    distiller = made(DMAE(pairs=((1, 2),), reconstruction=False), student, teacher)
    distiller(pictures()).loss.backward()
    reached = {n for n, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"encoder.cls_token", "encoder.patch_embed.proj.weight", "encoder.blocks.1.mlp.fc2.weight"} <= reached
    assert not any(name.startswith(("encoder.blocks.2", "encoder.norm", "decoder")) for name in reached)
    method: Any = distiller.method.methods["dmae"]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.heads.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_without_reconstruction_the_decoder_does_not_run() -> None:
    student = net()
    calls: list[int] = []
    student.decoder.register_forward_hook(lambda *a: calls.append(1))
    made(DMAE(pairs=((1, 2),), reconstruction=False), student)(pictures())
    assert not calls
    made(DMAE(pairs=((1, 2),)), student)(pictures())
    assert calls == [1]


def test_a_student_like_its_teacher_has_no_distance() -> None:
    teacher = net(1)
    distiller = made(DMAE(pairs=((1, 1), (2, 2)), head="none"), copy.deepcopy(teacher), teacher)
    assert float(distiller(pictures()).terms["dmae.distil"]) == 0


def test_no_head_means_raw_tokens_and_equal_widths() -> None:
    assert DMAE().normalise
    assert not DMAE(head="none").normalise
    assert DMAE(head="none", normalise=True).normalise
    with pytest.raises(DistilError, match="are 8 wide and the teacher's 12; use head='fc-1layer'"):
        made(DMAE(pairs=((1, 2),), head="none"))


def test_plain_autoencoding_needs_no_teacher() -> None:
    distiller = Distiller(net(), None, DMAE(weight=0), task="features", example=pictures())
    assert set(distiller(pictures()).terms) == {"dmae"}
    with pytest.raises(DistilError, match="there is none; give one, or weight=0"):
        Distiller(net(), None, DMAE(pairs=((1, 2),)), task="features", example=pictures())


def test_the_pixel_loss_does_not_see_visible_patches_nor_a_mask_that_removes_nothing() -> None:
    distiller = made(DMAE(pairs=((1, 2),), mask_ratio=0.0))
    step = distiller(pictures())
    assert float(step.terms["dmae.reconstruction"]) == 0
    step.loss.backward()
    assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)


def test_one_image_constant_images_and_normalised_pixels_are_finite() -> None:
    blank = {**pictures(1), "inputs": torch.zeros(1, 1, 8, 8)}
    for method in (DMAE(pairs=((1, 2),), norm_pix=True), DMAE(pairs=((1, 2),), distance="l2", head="mlp-2layer")):
        distiller = made(method)
        distiller(blank).loss.backward()
        assert all(p.grad.isfinite().all() for p in distiller.parameters() if p.grad is not None)


def test_features_are_compared_in_float32_under_bf16() -> None:
    distiller = made(DMAE(pairs=((1, 2),)))
    distiller.keep_live(True)
    with torch.autocast("cpu", torch.bfloat16):
        distiller(pictures())
    assert {value.dtype for value in distiller.live.values()} == {torch.float32}


def test_a_measured_loss_has_one_mask_for_each_sample_whoever_shares_the_batch() -> None:
    distiller = made(DMAE(pairs=((1, 2),))).eval()
    whole = pictures()
    both = distiller(whole).terms
    distiller.ctx.step = 7
    assert torch.equal(distiller(whole).terms["dmae.distil"], both["dmae.distil"])
    parts = [{k: v[rows] for k, v in whole.items()} for rows in (slice(0, 5), slice(5, 20))]
    values = [distiller(part).terms["dmae.distil"] * len(part["id"]) for part in parts]
    torch.testing.assert_close(sum(values) / 20, both["dmae.distil"])


def test_labels_never_reach_it() -> None:
    seen: list[dict[str, Any]] = []
    method = DMAE(pairs=((1, 2),))
    method.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    made(method)(pictures())
    assert "labels" not in seen[0]


def test_what_ships_is_the_encoder_which_fine_tunes_with_only_the_head_missing() -> None:
    data = DictDataset(pictures()["inputs"], pictures()["labels"])
    distiller = made(DMAE(pairs=((1, 2),)))
    result = fit(distiller, data, epochs=1, batch_size=10, check_teacher=False, device="cpu")
    assert isinstance(result.model, MaskedViT)
    shipped = ViT(8, patch=2, dim=8, depth=3, heads=2, ratio=4, classes=5, channels=1)
    missing, extra = shipped.load_state_dict(result.model.state_dict(), strict=False)
    assert sorted(missing) == ["head.bias", "head.weight"]
    assert not extra
    assert load_encoder(shipped, result.model) is shipped


def test_a_mask_of_nothing_visible_and_images_that_do_not_fit_are_refused_in_a_sentence() -> None:
    with pytest.raises(DistilError, match=r"ratio=0\.97 leaves none of 16 patches"):
        made(DMAE(pairs=((1, 2),), mask_ratio=0.97))(pictures())
    with pytest.raises(DistilError, match="made for images of 8x8, and these are"):
        made(DMAE(pairs=((1, 2),)), example={**pictures(), "inputs": torch.zeros(20, 1, 8, 10)})
    with pytest.raises(DistilError, match="cannot be cut into patches of 2x2"):
        net(size=(8, 9))
    teacher = MaskedAutoencoder(8, patch=4, dim=12, depth=4, heads=2, channels=1)
    with pytest.raises(DistilError, match="give both the same image and patch size"):
        made(DMAE(pairs=((1, 2),)), teacher=teacher)
    with pytest.raises(DistilError, match=r"encoder\.blocks\.9' does not exist in the student"):
        made(DMAE(pairs=((9, 2),)))
    with pytest.raises(DistilError, match="masks images"):
        made(DMAE(pairs=((1, 2),)))({"inputs": torch.zeros(3, 64)})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio=1.0"),
        ({"mask_ratio": -0.1}, "mask_ratio=-0.1"),
        ({"weight": -1.0}, "weight=-1.0"),
        ({"weight": 0.0, "reconstruction": False}, "nor 0 without reconstruction"),
        ({"head": "fc"}, "known: fc-1layer"),
        ({"distance": "L1"}, "did you mean 'l1'"),
        ({"pairs": ()}, "different pairs of blocks"),
        ({"pairs": ((1, -2),)}, "different pairs of blocks"),
        ({"pairs": ((1, 2), (1, 2))}, "different pairs of blocks"),
        ({"pairs": ((1, 2, 3),)}, "different pairs of blocks"),
        ({"pairs": "2"}, "different pairs of blocks"),
    ],
)
def test_impossible_settings_are_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(DistilError, match=words):
        DMAE(**changed)


def test_one_pair_may_stand_alone_and_lists_are_read() -> None:
    assert DMAE(pairs=(2, 3)).pairs == DMAE(pairs=[[2, 3]]).pairs == ((2, 3),)
    assert as_sum(DMAE(pairs=((2, 2),))).expression == "dmae(pairs=((2, 2),))"
    assert parse("dmae(pairs=((1, 2), (2, 3)), head='mlp-1layer')").expression == (
        published(pairs=((1, 2), (2, 3)), head="mlp-1layer").expression
    )


def test_another_kind_of_student_is_refused_with_the_way_to_make_one() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = net().encoder

        def forward(self, inputs: Tensor) -> Tensor:
            return self.encoder(inputs)

    with pytest.raises(DistilError, match=r"trains a MaskedAutoencoder and the student is Other; make one with"):
        made(DMAE(pairs=((1, 2),)), Other())(pictures())


def test_a_bare_encoder_may_teach_by_its_own_path() -> None:
    teacher = net(1, dim=12, depth=4)
    bare = copy.deepcopy(teacher.encoder)
    method = {"pairs": ((1, 2),)}
    taps = {"encoder.blocks.2": ("encoder.blocks.2", "blocks.2")}
    other = made(DMAE(**method), teacher=bare, taps=taps).eval()
    assert torch.equal(
        other(pictures()).terms["dmae.distil"], made(DMAE(**method)).eval()(pictures()).terms["dmae.distil"]
    )


def test_a_teacher_that_only_remembers_whole_images_is_refused() -> None:
    class Remembered(BatchReader):
        def __init__(self) -> None:
            super().__init__()
            self.stored = nn.Identity()

        def places(self, tap: str) -> tuple[str, ...]:
            return ("stored",)

        def forward(self, batch: Any) -> Tensor:
            found: Tensor = self.stored(torch.zeros(len(batch["inputs"]), 17, 12))
            return found

    with pytest.raises(DistilError, match="a cache of whole images does not know"):
        made(DMAE(pairs=((1, 2),)), teacher=Remembered())(pictures())


def test_the_official_positions_are_those_made_here() -> None:
    file = Path(__file__).parents[1] / "golden" / "data" / "dmae.npz"
    import numpy as np

    from distil.models.masked import sincos_positions

    with np.load(file, allow_pickle=False) as arrays:
        keys = [k for k in arrays.files if k.endswith("pos_embed")]
        for key in keys:
            theirs = torch.from_numpy(arrays[key])
            side = int((theirs.shape[1] - 1) ** 0.5)
            torch.testing.assert_close(sincos_positions(theirs.shape[2], side, side), theirs)
    assert len(keys) >= 2


def test_reconstruction_falls_and_tokens_come_nearer_over_a_short_run() -> None:
    images = torch.rand(96, 1, 8, 8, generator=seeded(1)).round() * torch.linspace(0, 1, 8)
    data = DictDataset(images)
    distiller = made(DMAE(pairs=((1, 2),), weight=5.0), example={"inputs": images[:8]})
    result = fit(distiller, data, epochs=12, batch_size=32, lr=5e-3, check_teacher=False, device="cpu")
    first, last = result.history[1]["terms"], result.history[-1]["terms"]
    assert last["dmae.reconstruction"] < first["dmae.reconstruction"]
    assert last["dmae.distil"] < 0.8 * first["dmae.distil"]


# ---- the recipe

SMALL = "patch=2, dim=8, depth=3, heads=2"
TOY = (
    "images.data=digits",
    "images.unlabelled=300",
    "images.labelled=80",
    "images.val=40",
    "images.test=60",
    f"teacher='distil:mae({SMALL}, decoder_dim=8, decoder_depth=1, decoder_heads=2)'",
    f"student='distil:mae({SMALL}, decoder_dim=8, decoder_depth=1, decoder_heads=2)'",
    f"judged.classifier='distil:vit({SMALL}, ratio=4)'",
    "pairs=[[1, 2]]",
    "training.epochs=1",
    "teacher_training.epochs=2",
    "judged.training.epochs=2",
    "judged.probe_epochs=3",
    "seeds=[0, 1]",
)


def run(out: Path, *settings: str) -> dict[str, Any]:
    recipe = load_recipe("dmae")
    setup = prepare_setup(recipe, assignments=settings)
    report = run_recipe(recipe, setup, out, Lab(out, shared=out / "shared"), command="distil run dmae", system="dmae")
    assert from_yaml(recipe.Setup(), out / "settings.yaml") == setup
    validate(report)
    return report


def test_the_recipe_runs_on_digits_and_both_ways_to_judge_share_the_encoders(tmp_path: Path) -> None:
    report = run(tmp_path, *TOY)
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert list(arms)[:2] == ["mae", "fitnets"]
    assert set(arms) >= {"mae", "fitnets", "dmae", "distil", "hidden", "untrained"}
    assert {arm["role"] for arm in arms.values()} == {"reference", "rival", "method", "ablation", "bound"}
    budgets = [arm["budget"] for arm in arms.values() if arm["role"] != "bound"]
    assert all(
        budget == budgets[0] == {"updates": 3, "batch_size": 128, "labels": 80, "trials": 2} for budget in budgets
    )
    assert arms["untrained"]["budget"]["updates"] == 0
    assert set(arms["dmae"]["metrics"]) == {"accuracy", "k-NN accuracy"}
    assert set(arms["dmae"]["diagnostics"]) == {"last dmae.reconstruction", "last dmae.distil"}
    assert ("dmae", "fitnets") in {(v["arm"], v["against"]) for v in report["verdicts"]}
    encoders = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared" / "stages").glob("encoder-*/tree.json")}
    assert len(encoders) == (2 + 2) * (len(arms) - 1)  # two seeds, and two learning rates on a third
    assert "seed 1000" in report["setting"]["Learning rate"]

    tuned = run(tmp_path, *TOY, "judged.score=fine-tuned")
    arms = {arm["name"]: arm for arm in tuned["arms"]}
    assert arms["untrained"]["label"] == "Supervised from scratch"
    assert arms["dmae"]["budget"] == {"updates": 3 + 2 * 2, "batch_size": 128, "labels": 80, "trials": 2}
    assert set(arms["dmae"]["metrics"]) == {"accuracy", "nll", "ece"}
    assert {path: path.stat().st_mtime_ns for path in encoders} == encoders
    assert len(list((tmp_path / "shared" / "stages").glob("encoder-*"))) == len(encoders)


@pytest.mark.data
@needs_data
def test_the_recipe_runs_on_its_own_data(tmp_path: Path) -> None:
    report = run(
        tmp_path, "images.unlabelled=120", "images.labelled=60", "images.val=30", "images.test=50", "training.epochs=1",
        "teacher_training.epochs=1", "judged.probe_epochs=2", "seeds=[0]",
    )  # fmt: skip
    assert report["data"]["name"] == "fashion-mnist"
    assert (report["data"]["train"], report["data"]["test"]) == (120, 50)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("judged.score=probed", "did you mean 'probe'"),
        ("images.labelled=400", "labelled=400 is more than images.unlabelled=300"),
        ("student='distil:mae(patch=3)'", "8x8 cannot be cut into patches of 3x3"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(setting: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DistilError, match=words):
        run(tmp_path, *TOY, setting)


def test_the_card_says_what_the_system_is() -> None:
    card = catalog.card("dmae")
    assert card.kind == "method"
    assert card.ships == "the encoder"
