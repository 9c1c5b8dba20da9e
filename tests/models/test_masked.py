"""The transformer that sees a part of the patches and stops at a block, held against timm's and against itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import distil.functional as D
from distil.errors import DistilError
from distil.models import MaskedAutoencoder, MaskedViT, ViT, load_encoder, load_model, token_head
from distil.models.masked import sincos_positions

SIZES: dict[str, Any] = {"patch": 4, "dim": 16, "depth": 3, "heads": 2}


def encoder(size: Any = (8, 12), **changed: Any) -> MaskedViT:
    torch.manual_seed(0)
    net = MaskedViT(size, **{**SIZES, **changed})
    for parameter in net.parameters():  # biases and norms that are not those of the start
        nn.init.normal_(parameter, std=0.2)
    return net


def test_positions_are_the_loop_over_rows_and_columns() -> None:
    found = sincos_positions(8, 2, 3)
    assert bool((found[0, 0] == 0).all())
    waves = [10000 ** (-k / 2) for k in range(2)]
    for row in range(2):
        for column in range(3):
            x, y = ([column * w for w in waves], [row * w for w in waves])
            angles = torch.tensor([x, y], dtype=torch.float64)
            expected = torch.cat([angles[0].sin(), angles[0].cos(), angles[1].sin(), angles[1].cos()]).float()
            torch.testing.assert_close(found[0, 1 + 3 * row + column], expected)
    with pytest.raises(DistilError, match="4 divides, not dim=6"):
        sincos_positions(6, 2, 2)


def test_it_answers_as_timms_vit_and_loading_leaves_only_the_head_missing() -> None:
    from timm.models import VisionTransformer

    mine, images = encoder(), torch.randn(2, 3, 8, 12)
    theirs = VisionTransformer(img_size=(8, 12), patch_size=4, embed_dim=16, depth=3, num_heads=2, num_classes=5)
    missing, extra = theirs.load_state_dict(mine.state_dict(), strict=False)
    assert sorted(missing) == ["head.bias", "head.weight"]
    assert not extra
    with torch.no_grad():
        torch.testing.assert_close(mine.tokens(images), theirs.eval().forward_features(images))
    assert load_encoder(theirs, mine) is theirs


def test_loading_into_the_reference_vit_leaves_only_its_head() -> None:
    mine, images = encoder(), torch.randn(2, 3, 8, 12)
    net = ViT((8, 12), patch=4, dim=16, depth=3, heads=2, ratio=4, classes=5)
    head = net.head.weight.detach().clone()
    load_encoder(net, mine)
    assert torch.equal(net.head.weight, head)
    assert net.pos_embed.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(net(images), net.head(mine.tokens(images)[:, 0]))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"depth": 4}, "missing .blocks.3"),
        ({"depth": 2}, "too many .blocks.2"),
        ({"ratio": 2}, "misshapen .blocks.0.mlp"),
        ({"dim": 32}, "misshapen .cls_token"),
    ],
)
def test_an_encoder_of_other_sizes_is_refused(changed: dict[str, Any], words: str) -> None:
    sizes = {**SIZES, "ratio": 4, **changed}
    with pytest.raises(DistilError, match=words.replace(" .", r" \(")):
        load_encoder(ViT((8, 12), **sizes), encoder())


def test_stopping_gives_the_very_tokens_of_the_whole_pass() -> None:
    net, images = encoder(), torch.randn(3, 3, 8, 12)
    keep = D.patch_mask(torch.rand(3, 6), 0.5).keep
    seen: dict[int, torch.Tensor] = {}
    for index, block in enumerate(net.blocks):
        block.register_forward_hook(lambda m, a, out, index=index: seen.setdefault(index, out))
    with torch.no_grad():
        whole = net.tokens(images, keep)
        called = dict(seen)
        seen.clear()
        for stop in range(3):
            seen.clear()
            assert torch.equal(net.tokens(images, keep, stop=stop), called[stop])
            assert sorted(seen) == list(range(stop + 1))
    torch.testing.assert_close(whole, net.norm(called[2]))
    for stop in (3, -1):
        with pytest.raises(DistilError, match=f"stop={stop} is no block of 3"):
            net.tokens(images, stop=stop)


def test_visible_patches_are_embedded_with_their_own_positions() -> None:
    net, images = encoder(), torch.randn(2, 3, 8, 12)
    keep = torch.tensor([[4, 0], [1, 5]])
    changed = images.clone()
    hidden = torch.ones(2, 6, dtype=torch.bool).scatter(1, keep, torch.zeros(2, 2, dtype=torch.bool))
    for sample, patch in hidden.nonzero().tolist():
        row, column = divmod(patch, 3)
        changed[sample, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 9.0
    with torch.no_grad():
        assert torch.equal(net.tokens(images, keep), net.tokens(changed, keep))  # what is hidden is not seen
        everything = torch.arange(6).expand(2, -1)
        torch.testing.assert_close(net.tokens(images, everything), net.tokens(images))
        order = torch.tensor([3, 1, 0, 2, 5, 4]).expand(2, -1)  # attention does not care for the order
        torch.testing.assert_close(net(images, order), net(images), rtol=1e-4, atol=1e-5)


def test_pooling_and_gradients() -> None:
    images = torch.randn(2, 3, 8, 12)
    mean, first = encoder(), encoder(pool="cls")
    with torch.no_grad():
        torch.testing.assert_close(mean(images), mean.tokens(images)[:, 1:].mean(1))
        torch.testing.assert_close(first(images), first.tokens(images)[:, 0])
    mean.tokens(images, stop=1).sum().backward()
    reached = {name for name, p in mean.named_parameters() if p.grad is not None}
    assert not any(name.startswith(("blocks.2", "norm")) for name in reached)
    assert {"cls_token", "patch_embed.proj.weight", "blocks.1.mlp.fc2.weight"} <= reached
    assert not any(name == "pos_embed" for name, _ in mean.named_parameters())  # fixed


def test_the_autoencoder_predicts_pixels_of_every_patch_and_its_decoder_sees_the_mask_token() -> None:
    torch.manual_seed(0)
    net = MaskedAutoencoder(8, channels=1, decoder_dim=8, decoder_depth=1, decoder_heads=2, **SIZES)
    mask = D.patch_mask(torch.rand(3, 4), 0.75)
    images = torch.rand(3, 1, 8, 8)
    found = net(images, mask.keep, mask.restore)
    assert found.shape == (3, 4, 16)
    found[mask.removed == 1].sum().backward()
    assert net.decoder.mask_token.grad is not None
    assert float(net.decoder.mask_token.grad.abs().sum()) > 0
    with torch.no_grad():
        assert torch.equal(net(images, mask.keep), net.encoder(images, mask.keep))
        assert net(images[:1]).shape == (1, 16)


def test_init_is_xavier_with_biases_zero_and_small_tokens() -> None:
    torch.manual_seed(0)
    net = MaskedAutoencoder(16, patch=4, dim=64, depth=1, heads=2)
    net.requires_grad_(requires_grad=False)
    for each in (m for m in net.modules() if isinstance(m, nn.Linear)):
        bound = (6 / sum(each.weight.shape)) ** 0.5
        assert bound * 0.9 < float(each.weight.abs().max()) <= bound
        assert not each.bias.any()
    patch = net.encoder.patch_embed.proj.weight
    assert float(patch.abs().max()) <= (6 / (64 + 48)) ** 0.5
    assert 0.01 < float(net.encoder.cls_token.std()) < 0.03
    assert 0.01 < float(net.decoder.mask_token.std()) < 0.03


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"size": 30}, "30x30 cannot be cut into patches of 4x4"),
        ({"size": (16, 18)}, "16x18 cannot be cut"),
        ({"heads": 3}, "multiple of heads=3"),
        ({"depth": 0}, "depth=0"),
        ({"pool": "max"}, "pool='max' is unknown"),
        ({"dim": 18}, "4 divides"),
        ({"decoder_heads": 3}, "decoder_heads=3"),
        ({"decoder_depth": 0}, "decoder_depth=0"),
    ],
)
def test_impossible_sizes_are_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(DistilError, match=words):
        MaskedAutoencoder(**{"size": 16, **SIZES, **changed})


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(DistilError, match=r"made for images of 8x12, and these are \(8, 8\)"):
        encoder()(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(("kind", "layers"), [("fc-1layer", 1), ("mlp-1layer", 2), ("mlp-2layer", 4)])
def test_heads_have_the_papers_layers(kind: str, layers: int) -> None:
    head = token_head(kind, 6, 10)
    linear = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [m.in_features for m in linear] == [6] + [10] * (layers - 1)
    assert head(torch.zeros(2, 5, 6)).shape == (2, 5, 10)
    tokens = torch.randn(2, 5, 6)
    one = torch.stack([head(tokens[:, k]) for k in range(5)], 1)  # each token by itself
    torch.testing.assert_close(head(tokens), one)


def test_no_head_is_for_equal_widths() -> None:
    assert isinstance(token_head("none", 4, 4), nn.Identity)
    with pytest.raises(DistilError, match="4 wide and the teacher's 6; use head='fc-1layer'"):
        token_head("none", 4, 6)
    with pytest.raises(DistilError, match="did you mean 'mlp-1layer'"):
        token_head("mlp-1lay", 4, 6)


def test_they_are_made_by_name() -> None:
    net = load_model("distil:mae(patch=4, dim=16, depth=1, heads=2)", classes=5, input_shape=(1, 8, 12))
    assert isinstance(net, MaskedAutoencoder)
    assert net.decoder.pred.out_features == 16
    assert isinstance(load_model("distil:masked_vit(patch=4, dim=16)", input_shape=(1, 8, 12)), MaskedViT)
