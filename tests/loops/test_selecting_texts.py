"""Perplexity and instruction-following difficulty by a real, tiny language model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from distil.errors import DistilError
from distil.loops.selecting_texts import answer_perplexity, choose_texts, instruction_difficulty

WORDS = ["<s>", "the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far", "one", "two", "three", "four"]


def encode(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    made: nn.Module = transformers.GPT2LMHeadModel(config).train()
    return made


ANSWERS = ["the cat sat", "a dog ran far", "one two"]
PROMPTS = ["three four", "on a mat", "the"]


def by_hand(model: nn.Module, before: list[int], said: list[int], first: int) -> float:
    """One text at a time, without padding; ``first`` answer tokens are not scored."""
    ids = torch.tensor([[*before, *said]])
    with torch.no_grad():
        log_p = model.eval()(input_ids=ids).logits[0].double().log_softmax(-1)
    at = range(len(before) + first, len(before) + len(said))
    values = [-float(log_p[k - 1, ids[0, k]]) for k in at]
    return math.exp(sum(values) / len(values))


@pytest.mark.parametrize("start", [None, 0])
@pytest.mark.parametrize("prompts", [None, PROMPTS])
def test_a_batch_of_padded_texts_gives_what_each_gives_alone(
    model: nn.Module, start: int | None, prompts: list[str] | None
) -> None:
    found = answer_perplexity(model, encode, ANSWERS, prompts=prompts, start=start, batch_size=2)
    head = [] if start is None else [start]
    for k, answer in enumerate(ANSWERS):
        before = head + (encode(prompts[k]) if prompts else [])
        expected = by_hand(model, before, encode(answer), 0 if head else 1)
        assert found[k].item() == pytest.approx(expected, rel=1e-4)


def test_the_model_stays_in_its_mode(model: nn.Module) -> None:
    model.train()
    answer_perplexity(model, encode, ANSWERS)
    assert model.training


def test_difficulty_is_the_ratio_of_both_perplexities(model: nn.Module) -> None:
    found = instruction_difficulty(model, encode, PROMPTS, ANSWERS, start=0)
    told = answer_perplexity(model, encode, ANSWERS, prompts=PROMPTS, start=0)
    torch.testing.assert_close(found, told / answer_perplexity(model, encode, ANSWERS, start=0))


class Copier(nn.Module):
    """Foretells a token that stood before in the text, and otherwise nothing in particular."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        seen = nn.functional.one_hot(input_ids, len(WORDS)).cumsum(1).clamp(max=1)
        return 4.0 * seen * attention_mask[..., None]


def test_an_instruction_that_tells_the_answer_makes_it_easy() -> None:
    found = instruction_difficulty(Copier(), encode, ["three one two", "the mat"], ["one two", "one two"], start=0)
    assert found[0] < 0.5 < found[1]


def test_long_texts_lose_the_beginning_of_the_prompt_and_then_the_end_of_the_answer(model: nn.Module) -> None:
    long = "the cat sat on a mat"
    found = answer_perplexity(model, encode, ["dog ran far"], prompts=[long], start=0, max_length=6)
    assert found.item() == pytest.approx(by_hand(model, [0, *encode(long)[-2:]], encode("dog ran far"), 0), rel=1e-4)
    cut = answer_perplexity(model, encode, [long], prompts=["dog"], start=0, max_length=4)
    assert cut.item() == pytest.approx(by_hand(model, [0], encode(long)[:3], 0), rel=1e-4)


def test_texts_are_chosen_by_score_with_class_balance_and_without_misleading_ones() -> None:
    scores = torch.tensor([0.2, 0.9, 1.4, 0.6, 0.8, 3.0])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert choose_texts(scores, 2).index.tolist() == [5, 2]
    assert choose_texts(scores, 2, take="lowest").index.tolist() == [0, 3]
    assert choose_texts(scores, 3, take="middle").index.tolist() == [3, 4, 1]
    assert choose_texts(scores, 1, labels=labels, take="middle").index.tolist() == [1, 4]
    assert choose_texts(scores, 9, take="middle").index.tolist() == [0, 3, 4, 1, 2, 5]
    assert choose_texts(scores, 2, below=1.0).index.tolist() == [1, 4]
    assert choose_texts(scores, 1, labels=labels, below=1.0).index.tolist() == [1, 4]
    assert choose_texts(scores, 9, labels=labels, below=1.0).index.tolist() == [1, 0, 4, 3]
    assert not len(choose_texts(scores, 0).index)
    with pytest.raises(DistilError, match="NaN"):
        choose_texts(torch.tensor([0.1, torch.nan]), 1)
    with pytest.raises(DistilError, match="take='best' is unknown"):
        choose_texts(scores, 1, take="best")


def test_what_cannot_be_scored_is_named(model: nn.Module) -> None:
    with pytest.raises(DistilError, match="1 prompts for 3 answers"):
        answer_perplexity(model, encode, ANSWERS, prompts=["the"])
    with pytest.raises(DistilError, match=r"answer 1 \('cat'\) has 1 tokens"):
        answer_perplexity(model, encode, ["the cat", "cat"])
    with pytest.raises(DistilError, match="has 0 tokens"):
        answer_perplexity(model, encode, [""], start=0)
    assert len(answer_perplexity(model, encode, ["cat"], start=0)) == 1
    assert not len(answer_perplexity(model, encode, []))
