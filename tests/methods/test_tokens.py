"""Methods on maps and models of tokens: on the grid of the patches where that is certain, else refused."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distil.engine import Distiller
from distil.engine.anatomy import anatomy
from distil.engine.grid import TokenGrid, token_grid
from distil.engine.method import Method
from distil.errors import DistilError
from distil.functional import attention_transfer, class_maps, inner_relation, sample_gram
from distil.methods import AT, CATKD, CWD, FSP, MSE, NST, RKD, SP, VID, FitNets, ReviewKD, SimKD
from distil.models.tokens import Mixer, ViT
from distil.systems.ofa_kd import OFAExits
from distil.systems.trg import TokenGraph
from engine import toys

pytestmark = pytest.mark.filterwarnings("ignore:Maps of the", "ignore:.* the ReLU at the end of FitNets")

DATA = toys.images(12)
BATCH = toys.batch(DATA, 6)
ON_GRIDS = [AT(), NST(), FSP(), VID(), ReviewKD(), FitNets(), SP(tap="tokens"), CWD(taps="stages"), MSE(taps="tokens")]
ON_GRIDS += [RKD(tap="tokens")]
NAMES = r"use a method on logits or embeddings \(kd, dkd, dist, rkd"


def vit(dim: int = 8, *, size: Any = 8, **options: Any) -> nn.Module:
    given = {"patch": 2, "depth": 4, "heads": 2, "classes": toys.CLASSES, "channels": 2, **options}
    return toys.seeded(lambda: ViT(size, dim=dim, **given), dim)


def mixer(dim: int = 8) -> nn.Module:
    return toys.seeded(lambda: Mixer(8, patch=2, dim=dim, depth=4, classes=toys.CLASSES, channels=2), dim)


class Own(nn.Module):
    """A user's own transformer: a token in front, and a way to say so."""

    def __init__(self, width: int = 8, told: int | None = None) -> None:
        super().__init__()
        self.body = vit(width)
        self.cls_token, self.body.cls_token = self.body.cls_token, None
        if told is not None:
            self.num_prefix_tokens = told

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.body.patch_embed(inputs)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        return self.body.head(self.body.norm(self.body.blocks(tokens))[:, 0])


class Unseen(nn.Module):
    """A transformer that cuts its patches without a convolution, so that nobody sees how they lie."""

    def __init__(self, count: int, dim: int = 8) -> None:
        super().__init__()
        self.cut, self.embed = nn.Unfold(2, stride=2), nn.Linear(8, dim)
        self.first = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(dim, dim), nn.ReLU()) for _ in range(4))
        self.head = nn.Linear(dim, toys.CLASSES)
        self.count = count

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.embed(self.cut(inputs).mT)
        tokens = torch.cat([self.first.expand(len(tokens), self.count, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(1))


def oblong(rows: int = 8, columns: int = 12) -> dict[str, Any]:
    """A batch of images that are no squares: by default 4 x 6 patches of 2 x 2."""
    inputs = torch.randn(6, 2, rows, columns, generator=torch.Generator().manual_seed(0))
    return {**BATCH, "inputs": inputs}


def made(method: Method, student: nn.Module, teacher: nn.Module, batch: Any = BATCH) -> Distiller:
    distiller = Distiller(student, teacher, method, example=batch, steps=9, epochs=9)
    distiller.watch()
    return distiller


def grid_of(model: nn.Module, inputs: Tensor) -> TokenGrid | str:
    return token_grid(model, anatomy(model, lambda m: m(inputs)).records)


@pytest.mark.parametrize("method", ON_GRIDS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("pair", ["vit-vit", "mixer-vit", "vit-mixer"])
def test_methods_on_maps_learn_on_the_grid_of_the_patches(method: Method, pair: str) -> None:
    make = {"vit": vit, "mixer": mixer}
    student, teacher = pair.split("-")
    distiller = made(method, make[student](8), make[teacher](12))
    loss = distiller(BATCH).loss
    loss.backward()
    assert loss.isfinite()
    slopes = [p.grad for p in distiller.student.parameters() if p.grad is not None]
    assert slopes
    assert all(slope.isfinite().all() for slope in slopes)
    assert any(slope.abs().sum() > 0 for slope in slopes)


def test_the_map_is_the_tokens_row_by_row_without_the_class_token() -> None:
    student, teacher = vit(8, size=(4, 8)), vit(12, size=(4, 8))
    batch = {**BATCH, "inputs": BATCH["inputs"][:, :, :4]}
    distiller = Distiller(student, teacher, AT(taps="stages.1"), example=batch)
    handles = distiller.cast.handles()
    with torch.no_grad():
        ours, theirs = (handle(batch)["stages.1"] for handle in handles)
        assert ours.shape == (6, 9, 8)
        found = next(iter(distiller.method)).method(*handles, batch, distiller.ctx)["at"].values
    maps = [torch.stack([tokens[:, 1 + 4 * row : 5 + 4 * row] for row in range(2)], 1) for tokens in (ours, theirs)]
    expected = attention_transfer(*(m.permute(0, 3, 1, 2) for m in maps), reduction="none")
    torch.testing.assert_close(found, expected)


def test_sp_compares_the_patches_alone() -> None:
    distiller = made(SP(tap="tokens"), vit(8), vit(12))
    handles = distiller.cast.handles()
    found = next(iter(distiller.method)).method(*handles, BATCH, distiller.ctx)["sp"].values
    ours, theirs = (handle(BATCH)["tokens"][:, 1:] for handle in handles)
    expected = sample_gram(ours.mT.flatten(1), theirs.mT.flatten(1), reduction="none")
    torch.testing.assert_close(found, expected)


def test_a_note_says_once_what_was_made_of_tokens() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        distiller = made(AT() + NST(), vit(8), mixer(12))  # type: ignore[arg-type]
        for _ in range(2):
            distiller(BATCH)
    notes = [
        "Maps of the student are made of its tokens: 4x4 patches, without the 1 token before them.",
        "Maps of the teacher are made of its tokens: 4x4 patches.",
    ]
    assert [str(w.message) for w in caught if "made of its tokens" in str(w.message)] == notes
    assert distiller.notes == notes
    assert made(AT(), toys.CNN(4), toys.CNN(6)).notes == []


def test_fitnets_says_what_its_relu_cannot_reach_and_leaves_it_out_when_asked() -> None:
    told = {}
    for relu in (True, False):
        distiller = Distiller(
            toys.seeded(toys.CNN, 1), vit(), FitNets(tap=("two", "blocks.1"), relu=relu), example=BATCH
        )
        told[relu] = [note for note in distiller.notes if "ReLU" in note]
        regressor = distiller.method.components[0].method.regressor
        ours = torch.randn(6, *distiller.method.components[0].method.regressor.conv.weight.shape[1:2], 4, 4)
        plain = regressor.bn.eval()(regressor.conv(ours))
        torch.testing.assert_close(regressor(ours), plain.clamp(min=0) if relu else plain)
    features = vit().blocks[:2](vit().patch_embed(BATCH["inputs"]))
    (note,), none = told[True], told[False]
    assert not none
    assert "of the teacher's features at 'blocks.1' (by their squares) lie below zero" in note
    assert features.min() < 0
    within = Distiller(toys.seeded(toys.CNN, 1), toys.seeded(toys.CNN, 2), FitNets(tap="two"), example=BATCH)
    assert not within.notes


def test_a_model_of_ones_own_says_how_many_tokens_are_no_patches() -> None:
    for method in (AT(), NST(), FSP(), VID(), ReviewKD(), FitNets(), SP(tap="tokens"), RKD(tap="tokens")):
        with pytest.raises(DistilError, match=rf"17 are not 4x4 patches.*num_prefix_tokens.*{NAMES}"):
            made(method, Own(), vit(12))
    assert made(AT(), Own(told=1), vit(12))(BATCH).loss.isfinite()
    with pytest.raises(DistilError, match="17 are not 4x4 patches, without the 2 tokens before them"):
        made(AT(), Own(told=2), vit(12))


def test_tokens_that_come_from_no_image_are_refused() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 8)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(4))
            self.head = nn.Linear(8, toys.CLASSES)

        def forward(self, inputs: Tensor) -> Tensor:
            tokens = self.embed(inputs)
            for block in self.blocks:
                tokens = block(tokens)
            return self.head(tokens.mean(1))

    batch = {"inputs": torch.randint(9, (4, 5)), "labels": torch.zeros(4).long()}
    with pytest.raises(DistilError, match=rf"\[4, 5, 8\] \(where they lie is not certain: no convolution.*{NAMES}"):
        Distiller(Words(), Words(), AT(), example=batch)


def test_catkd_reads_the_grid_where_its_mean_is_what_is_classified_and_simkd_never() -> None:
    distiller = made(CATKD(tap="tokens"), mixer(8), mixer(12))
    handle = distiller.cast.handles()[0]
    (method,) = (component.method for component in distiller.method)
    with torch.no_grad():
        maps = method._maps(handle, BATCH)
        weight = handle.part("head").weight
        torch.testing.assert_close(maps, class_maps(handle(BATCH)["tokens"].mT.unflatten(2, (4, 4)), weight))
        torch.testing.assert_close(maps.mean((2, 3)) + handle.part("head").bias, handle(BATCH).logits)
    assert distiller(BATCH).loss.isfinite()
    with pytest.raises(DistilError, match=rf"not its average.*{NAMES}"):  # a class token is no average
        made(CATKD(tap="tokens"), mixer(8), vit(12))
    for pair in ((mixer(8), mixer(12)), (vit(8), mixer(12))):
        with pytest.raises(DistilError, match=NAMES):
            made(SimKD(tap="tokens"), *pair)
        for kind in (CATKD, SimKD, SP):  # the last map, which there is none of
            with pytest.raises(DistilError, match=NAMES):
                made(kind(), *pair)


def test_grids_of_library_models() -> None:
    timm = pytest.importorskip("timm")
    images = torch.zeros(2, 3, 32, 32)

    def of(name: str, **options: Any) -> TokenGrid | str:
        return grid_of(timm.create_model(name, num_classes=3, img_size=32, **options), images)

    small = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    assert of("vit_tiny_patch16_224", patch_size=8, **small) == TokenGrid(1, 4, 4)
    assert of("vit_tiny_patch16_224", patch_size=8, class_token=False, global_pool="avg", **small) == TokenGrid(0, 4, 4)
    assert of("deit_tiny_distilled_patch16_224", patch_size=8, **small) == TokenGrid(2, 4, 4)
    assert of("vit_small_patch14_reg4_dinov2", patch_size=8, **small) == TokenGrid(5, 4, 4)
    mlps = timm.models.mlp_mixer.MlpMixer(3, 32, patch_size=8, num_blocks=2, embed_dim=24)
    assert grid_of(mlps, images) == TokenGrid(0, 4, 4)
    assert isinstance(grid_of(timm.create_model("resnet18", num_classes=3), images), str)


def test_grids_of_torchvision_and_transformers() -> None:
    vision = pytest.importorskip("torchvision.models.vision_transformer")
    net = vision.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=3)
    assert grid_of(net, torch.zeros(2, 3, 32, 32)) == TokenGrid(1, 4, 4)
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    shape |= {"image_size": 32, "patch_size": 8, "num_labels": 3}
    for name, extra in (("ViT", 1), ("DeiT", 2), ("Dinov2WithRegisters", 5), ("Beit", 1)):
        config = getattr(transformers, f"{name}Config")(**shape)
        model = getattr(transformers, f"{name}ForImageClassification")(config)
        assert grid_of(model, torch.zeros(2, 3, 32, 32)) == TokenGrid(extra, 4, 4), name


# ---- methods that read tokens by place: what is known is not guessed


@pytest.mark.parametrize(
    ("grid", "length", "class_tokens", "lie"),
    [
        (TokenGrid(1, 4, 6), 25, None, (1, 4, 6)),
        (TokenGrid(1, 4, 6), 24, None, (0, 4, 6)),
        (TokenGrid(1, 4, 6), 6, None, (0, 2, 3)),  # merged two by two
        (TokenGrid(1, 4, 6), 26, None, None),
        (TokenGrid(1, 4, 6), 26, 2, (2, 4, 6)),
        (TokenGrid(1, 4, 6), 25, 0, None),
        (TokenGrid(0, 4, 4), 18, None, (2, 4, 4)),  # a model that does not say what stands before
        (TokenGrid(0, 4, 4), 25, None, None),
        (TokenGrid(5, 6, 6), 41, None, (5, 6, 6)),
        (TokenGrid(5, 6, 6), 9, None, None),  # 3 x 3, or 2 x 2 behind five others
    ],
)
def test_how_so_many_tokens_lie_on_a_known_grid(
    grid: TokenGrid, length: int, class_tokens: int | None, lie: tuple[int, int, int] | None
) -> None:
    assert grid.fit(length, class_tokens) == (None if lie is None else TokenGrid(*lie))


def test_a_token_graph_reads_the_patches_of_an_oblong_grid() -> None:
    """25 tokens: 4 x 6 patches behind a class token, which would be taken for 5 x 5 patches by their number."""
    batch = oblong()
    distiller = made(
        TokenGraph(tap="tokens", local=0, contrast=0, inner=1), vit(8, size=(8, 12)), vit(12, size=(8, 12)), batch
    )
    ours, theirs = (handle(batch)["tokens"] for handle in distiller.cast.handles())
    assert ours.shape[1] == 25
    torch.testing.assert_close(distiller(batch).loss, inner_relation(ours[:, 1:], theirs[:, 1:]))
    coarse = made(
        TokenGraph(tap="tokens", local=0, contrast=0, inner=1),
        vit(8, size=(8, 12)),
        vit(12, size=(8, 12), patch=4),
        batch,
    )
    ours, theirs = (handle(batch)["tokens"] for handle in coarse.cast.handles())
    pooled = nn.functional.adaptive_avg_pool2d(ours[:, 1:].mT.unflatten(2, (4, 6)), (2, 3)).flatten(2).mT
    torch.testing.assert_close(coarse(batch).loss, inner_relation(pooled, theirs[:, 1:]))


def test_a_token_graph_guesses_where_nobody_knows_and_images_are_squares_alone() -> None:
    method = TokenGraph(tap="tokens", local=0, contrast=0, inner=1)
    for count in (0, 1):
        distiller = made(method, Unseen(count), vit(12))
        ours, theirs = (handle(BATCH)["tokens"] for handle in distiller.cast.handles())
        torch.testing.assert_close(distiller(BATCH).loss, inner_relation(ours[:, count:], theirs[:, 1:]))
    batch = oblong()
    with pytest.raises(DistilError, match=r"25 tokens may lie in many ways.*class_tokens="):
        made(method, Unseen(1), Unseen(1), batch)
    told = TokenGraph(tap="tokens", local=0, contrast=0, inner=1, class_tokens=1)
    distiller = made(told, Unseen(1), Unseen(1, 12), batch)
    ours, theirs = (handle(batch)["tokens"][:, 1:] for handle in distiller.cast.handles())
    torch.testing.assert_close(distiller(batch).loss, inner_relation(ours, theirs))
    beside = made(method, Unseen(1), vit(12, size=(8, 12)), batch)  # the teacher says how many places there are
    ours, theirs = (handle(batch)["tokens"][:, 1:] for handle in beside.cast.handles())
    torch.testing.assert_close(beside(batch).loss, inner_relation(ours, theirs))


class Prompted(Own):
    """Nine prompts before 4 x 4 patches: 25 tokens."""

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.body.patch_embed(inputs)
        tokens = torch.cat([self.cls_token.expand(len(tokens), 9, -1), tokens], 1)
        return self.body.head(self.body.norm(self.body.blocks(tokens))[:, 0])


@pytest.mark.parametrize("kind", [TokenGraph, OFAExits])
def test_tokens_that_are_not_those_of_the_known_grid_are_refused(kind: Any) -> None:
    tap: dict[str, Any] = {"tap": "tokens"} if kind is TokenGraph else {}
    with pytest.raises(
        DistilError, match="the 25 tokens of the student are not its 4x4 patches; say with class_tokens="
    ):
        made(kind(**tap), Prompted(), Prompted())
    assert made(kind(class_tokens=9, **tap), Prompted(), Prompted())(BATCH).loss.isfinite()


def test_exits_read_the_class_token_of_an_oblong_grid() -> None:
    batch = oblong()
    distiller = made(OFAExits(), vit(8, size=(8, 12)), vit(12, size=(8, 12)), batch)
    exits: Any = distiller.method.methods["ofaexits"].exits
    assert {(leave.grid, leave.class_tokens) for leave in exits.values()} == {((4, 6), 1)}
    assert distiller(batch).loss.isfinite()
    wide = made(OFAExits(branches=[4]), vit(8, size=(28, 14), patch=1), vit(12, size=(28, 14)), oblong(28, 14))
    (leave,) = wide.method.methods["ofaexits"].exits.values()
    assert (leave.grid, leave.class_tokens, len(leave.merging)) == ((28, 14), 1, 1)
    assert wide(oblong(28, 14)).loss.isfinite()


def test_exits_guess_where_nobody_knows_and_images_are_squares_alone() -> None:
    for count in (0, 1):
        exits: Any = made(OFAExits(), Unseen(count), vit(12)).method.methods["ofaexits"].exits
        assert {(leave.grid, leave.class_tokens) for leave in exits.values()} == {((4, 4), count)}
    for options in ({}, {"class_tokens": 0}):
        with pytest.raises(DistilError, match=r"how the 25 tokens of stage 1 lie.* is not known.*class_tokens="):
            made(OFAExits(**options), Unseen(1), vit(12, size=(8, 12)), oblong())
