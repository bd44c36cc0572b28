"""Batch decoding against a plain language model run row by row, without padding, mask or cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from vlarl.policies.decoding import ActionDecoder, Prompt, attention_bias, inverse_cdf, positions, take_rows

NUM_BINS, FIRST_ROW, NUM_TOKENS, WIDTH = 16, 9, 7, 24
LENGTHS = (5, 2, 8, 1)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=FIRST_ROW + NUM_BINS + 3,  # rows after the action rows must not be touched either
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        initializer_range=0.3,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def decoder(model: LlamaForCausalLM) -> ActionDecoder:
    return ActionDecoder(model, num_action_tokens=NUM_TOKENS, num_bins=NUM_BINS, first_row=FIRST_ROW)


@pytest.fixture(scope="module")
def prompt() -> Prompt:
    torch.manual_seed(1)
    valid = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    return Prompt(embeddings=torch.randn(len(LENGTHS), max(LENGTHS), WIDTH), valid=valid)


def uniforms(rows: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, NUM_TOKENS))


def plain_log_probs(model: LlamaForCausalLM, row: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """(len(tokens) + 1, V) of one unpadded row (P, D): the whole model, its whole head, then the action rows."""
    embeddings = torch.cat([row, model.model.embed_tokens(tokens + FIRST_ROW)])[None]
    with torch.no_grad():
        logits = model(inputs_embeds=embeddings, use_cache=False).logits[0]
    return (logits[len(row) - 1 :, FIRST_ROW : FIRST_ROW + NUM_BINS] / temperature).log_softmax(dim=-1)


def plain_sample(
    model: LlamaForCausalLM, row: Tensor, draws: np.ndarray | None, temperature: float
) -> tuple[list[int], float]:
    """Token by token, everything computed afresh each time, by a search in the cumulative sum."""
    tokens: list[int] = []
    total = 0.0
    for i in range(NUM_TOKENS):
        log_probs = plain_log_probs(model, row, torch.tensor(tokens, dtype=torch.int64), temperature)[-1]
        cumulative = np.cumsum(np.exp(log_probs.double().numpy()))
        token = int(log_probs.argmax()) if draws is None else int(np.searchsorted(cumulative, draws[i], side="right"))
        total += float(log_probs[token])
        tokens.append(token)
    return tokens, total


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("greedy", [False, True])
def test_cached_padded_decoding_equals_the_plain_model(
    model: LlamaForCausalLM, decoder: ActionDecoder, prompt: Prompt, temperature: float, greedy: bool
) -> None:
    draws = None if greedy else uniforms(len(LENGTHS))
    sampled = decoder.sample(prompt, temperature=temperature, uniforms=draws)
    for i, length in enumerate(LENGTHS):
        row = prompt.embeddings[i, :length]
        tokens, log_prob = plain_sample(model, row, None if draws is None else draws[i], temperature)
        assert sampled.tokens[i].tolist() == tokens
        assert float(sampled.log_prob[i]) == pytest.approx(log_prob, abs=2e-5)  # measured: 8e-6
        with torch.no_grad():
            hidden = model.model(inputs_embeds=row[None], use_cache=False).last_hidden_state[0, -1]
        torch.testing.assert_close(sampled.feature[i], hidden, atol=1e-5, rtol=0)  # measured: 7e-7


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_scoring_equals_the_plain_model(
    model: LlamaForCausalLM, decoder: ActionDecoder, prompt: Prompt, temperature: float
) -> None:
    tokens = torch.randint(0, NUM_BINS, (len(LENGTHS), NUM_TOKENS), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        scores = decoder.score(prompt, tokens, temperature=temperature)
        log_probs, _ = decoder.token_log_probs(prompt, tokens, temperature=temperature)
    for i, length in enumerate(LENGTHS):
        plain = plain_log_probs(model, prompt.embeddings[i, :length], tokens[i, :-1], temperature)
        torch.testing.assert_close(log_probs[i], plain, atol=1e-5, rtol=0)  # measured: below 1e-6
        assert float(scores.log_prob[i]) == pytest.approx(float(plain[range(NUM_TOKENS), tokens[i]].sum()), abs=2e-5)
        entropy = -(plain.exp() * plain).sum(dim=-1).mean()
        assert float(scores.entropy[i]) == pytest.approx(float(entropy), abs=1e-5)
    torch.testing.assert_close(scores.feature, decoder.feature(prompt), atol=1e-5, rtol=0)


def test_scoring_gives_gradients_to_the_prompt_and_the_model(
    model: LlamaForCausalLM, decoder: ActionDecoder, prompt: Prompt
) -> None:
    embeddings = prompt.embeddings.clone().requires_grad_()
    tokens = torch.zeros(len(LENGTHS), NUM_TOKENS, dtype=torch.int64)
    scores = decoder.score(Prompt(embeddings=embeddings, valid=prompt.valid), tokens, temperature=1.0)
    (gradient,) = torch.autograd.grad(scores.log_prob.sum(), embeddings)
    moved = gradient.abs().sum(dim=-1) > 0
    assert torch.equal(moved, prompt.valid), "real tokens have a gradient, padding has none"


def test_sampling_has_no_gradient(decoder: ActionDecoder, prompt: Prompt) -> None:
    sampled = decoder.sample(prompt, temperature=1.0, uniforms=None)
    assert not sampled.log_prob.requires_grad
    assert not sampled.feature.requires_grad


@pytest.mark.parametrize("extra", [1, 4])
def test_more_padding_changes_nothing(decoder: ActionDecoder, prompt: Prompt, extra: int) -> None:
    padding = torch.full((len(LENGTHS), extra, WIDTH), 1e4)
    wider = Prompt(
        embeddings=torch.cat([prompt.embeddings, padding], dim=1),
        valid=torch.nn.functional.pad(prompt.valid, (0, extra), value=False),
    )
    draws = uniforms(len(LENGTHS))
    narrow, wide = (decoder.sample(p, temperature=1.0, uniforms=draws) for p in (prompt, wider))
    assert torch.equal(narrow.tokens, wide.tokens)
    torch.testing.assert_close(narrow.log_prob, wide.log_prob, atol=1e-5, rtol=0)
    torch.testing.assert_close(narrow.feature, wide.feature, atol=1e-5, rtol=0)
    scores = decoder.score(wider, narrow.tokens, temperature=1.0)
    torch.testing.assert_close(scores.log_prob, narrow.log_prob, atol=2e-5, rtol=0)


def test_what_lies_in_the_padding_does_not_matter(decoder: ActionDecoder, prompt: Prompt) -> None:
    other = torch.where(prompt.valid[..., None], prompt.embeddings, torch.tensor(77.0))
    assert not torch.equal(other, prompt.embeddings)
    draws = uniforms(len(LENGTHS))
    one = decoder.sample(prompt, temperature=1.0, uniforms=draws)
    two = decoder.sample(Prompt(embeddings=other, valid=prompt.valid), temperature=1.0, uniforms=draws)
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(one.log_prob, two.log_prob)
    assert torch.equal(one.feature, two.feature)


def test_attention_bias_by_hand() -> None:
    valid = torch.tensor([[True, True, False, True]])
    allowed = attention_bias(valid, 4, torch.float32)[0, 0] == 0
    assert allowed.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1]]
    assert torch.equal(attention_bias(valid, 1, torch.float32), attention_bias(valid, 4, torch.float32)[:, :, -1:])


def test_positions_count_real_tokens() -> None:
    valid = torch.tensor([[True, True, False, False, True, True], [True] * 6])
    assert positions(valid)[0, valid[0]].tolist() == [0, 1, 2, 3]
    assert positions(valid)[1].tolist() == [0, 1, 2, 3, 4, 5]


def test_take_rows_and_last() -> None:
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    prompt = Prompt(embeddings=hidden, valid=torch.tensor([[True, True, False], [True, True, True]]))
    assert take_rows(hidden, prompt.last).tolist() == [[2.0, 3.0], [10.0, 11.0]]


# --- inverse CDF ---


def draw(probabilities: list[float], uniform: float) -> int:
    return int(inverse_cdf(torch.tensor([probabilities]).log(), torch.tensor([uniform], dtype=torch.float64)))


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.2499, 0), (0.2501, 1), (0.7499, 1), (0.7501, 2), (0.999999, 2), (1 - 2**-53, 2)]
)
def test_inverse_cdf_by_hand(uniform: float, token: int) -> None:
    """A token owns [sum before it, sum with it)."""
    assert draw([0.25, 0.5, 0.25], uniform) == token


def test_impossible_tokens_are_never_drawn() -> None:
    assert draw([0.0, 0.0, 1.0, 0.0], 0.0) == 2
    assert draw([0.0, 0.0, 1.0, 0.0], 1 - 2**-53) == 2
    assert draw([0.0, 0.5, 0.0, 0.5], 0.5) == 3


@pytest.mark.parametrize("scale", [0.999999, 1.000001])
def test_a_sum_that_is_not_quite_one_is_no_problem(scale: float) -> None:
    """Log-probabilities in float32 sum to 1 only roughly; every draw still is a token that can be."""
    log_probs = torch.full((1, 256), 1 / 256 * scale).log()
    log_probs[0, 200:] = -torch.inf
    for uniform in (0.0, 0.5, 0.9999999, 1 - 2**-53):
        assert int(inverse_cdf(log_probs, torch.tensor([uniform], dtype=torch.float64))) < 200


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.05, 0.3, 0.15, 0.4, 0.1], dtype=torch.float64)
    count = 20000
    draws = torch.from_numpy(np.random.default_rng(4).random(count))
    tokens = inverse_cdf(probabilities.log().expand(count, 5), draws)
    frequencies = np.bincount(tokens.numpy(), minlength=5)
    assert stats.chisquare(frequencies, probabilities.numpy() * count).pvalue > 1e-3
    assert stats.chisquare(frequencies, np.full(5, count / 5)).pvalue < 1e-12, "the test can tell"
