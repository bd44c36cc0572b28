"""Batch decoding, both forms of it, against a plain language model run row by row, without padding, mask or cache."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from vlarl.policies.decoding import (
    ActionDecoder,
    Prompt,
    attention_bias,
    inverse_cdf,
    positions,
    run_layers,
    take_rows,
)
from vlarl.policies.static_decoding import StaticDecoder, captured, directly, joined

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


@pytest.fixture(scope="module", params=[ActionDecoder, StaticDecoder])
def decoder(model: LlamaForCausalLM, request: pytest.FixtureRequest) -> ActionDecoder:
    return request.param(model, num_action_tokens=NUM_TOKENS, num_bins=NUM_BINS, first_row=FIRST_ROW)


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
    assert take_rows(hidden, torch.tensor([[2, 0], [1, 1]]))[..., 0].tolist() == [[4.0, 0.0], [8.0, 8.0]]


def test_layers_give_what_the_model_gives(model: LlamaForCausalLM, prompt: Prompt) -> None:
    where = torch.arange(prompt.valid.shape[1])[None]
    with torch.no_grad():
        whole = model.model(inputs_embeds=prompt.embeddings, use_cache=False).last_hidden_state
        assert torch.equal(run_layers(model, prompt.embeddings, where=where), whole)
        bias = attention_bias(prompt.valid, prompt.valid.shape[1], torch.float32)
        masked = model.model(
            inputs_embeds=prompt.embeddings,
            attention_mask=bias,
            position_ids=positions(prompt.valid),
            use_cache=False,
        ).last_hidden_state
        found = run_layers(model, prompt.embeddings, where=positions(prompt.valid), bias=bias)
    assert torch.equal(found, masked)


# --- the cache at fixed addresses ---


class Recorder:
    """A capture that replays by running again, and counts."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, run: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        run()  # as a real one warms up: more than once, to the same effect
        run()

        def replay() -> None:
            self.replays += 1
            run()

        return replay


def static(model: LlamaForCausalLM, capture: Callable[[Callable[[], None]], Callable[[], None]]) -> StaticDecoder:
    return StaticDecoder(model, num_action_tokens=NUM_TOKENS, num_bins=NUM_BINS, first_row=FIRST_ROW, capture=capture)


def random_prompt(lengths: tuple[int, ...], seed: int) -> Prompt:
    random = torch.Generator().manual_seed(seed)
    valid = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return Prompt(embeddings=torch.randn(len(lengths), max(lengths), WIDTH, generator=random), valid=valid)


def test_both_forms_of_decoding_agree(model: LlamaForCausalLM) -> None:
    growing = ActionDecoder(model, num_action_tokens=NUM_TOKENS, num_bins=NUM_BINS, first_row=FIRST_ROW)
    fixed = static(model, Recorder())
    lengths = tuple(int(n) for n in np.random.default_rng(0).integers(1, 12, 64))
    prompt, draws = random_prompt(lengths, 5), uniforms(64)
    one, two = (decoder.sample(prompt, temperature=1.3, uniforms=draws) for decoder in (growing, fixed))
    assert torch.equal(one.tokens, two.tokens)
    torch.testing.assert_close(one.log_prob, two.log_prob, atol=3e-5, rtol=0)  # measured: below 8e-6
    assert torch.equal(one.feature, two.feature)
    scores = [decoder.score(prompt, one.tokens, temperature=1.3) for decoder in (growing, fixed)]
    torch.testing.assert_close(scores[0].log_prob, scores[1].log_prob, atol=3e-5, rtol=0)
    torch.testing.assert_close(scores[0].entropy, scores[1].entropy, atol=1e-5, rtol=0)
    torch.testing.assert_close(scores[0].feature, scores[1].feature, atol=1e-5, rtol=0)
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(s.log_prob.sum(), list(model.model.parameters()))])
        for s in scores
    ]
    scale = float(gradients[0].abs().max())
    torch.testing.assert_close(gradients[0] / scale, gradients[1] / scale, atol=1e-5, rtol=0)


def test_a_shape_is_captured_once_and_replayed_for_every_token(model: LlamaForCausalLM) -> None:
    recorder = Recorder()
    decoder = static(model, recorder)
    plain = ActionDecoder(model, num_action_tokens=NUM_TOKENS, num_bins=NUM_BINS, first_row=FIRST_ROW)
    prompts = [random_prompt(lengths, seed) for seed, lengths in enumerate([(5, 2, 8), (8, 8, 1), (1, 8, 3)])]
    for i, prompt in enumerate([*prompts, prompts[0]]):
        draws = uniforms(3, seed=i)
        found = decoder.sample(prompt, temperature=1.0, uniforms=draws)
        wanted = plain.sample(prompt, temperature=1.0, uniforms=draws)
        assert torch.equal(found.tokens, wanted.tokens), "nothing of the decision before is left"
        torch.testing.assert_close(found.log_prob, wanted.log_prob, atol=2e-5, rtol=0)
    assert (recorder.captures, recorder.replays) == (1, 4 * (NUM_TOKENS - 1))


def test_what_a_decision_gives_is_not_written_over_by_the_next(model: LlamaForCausalLM) -> None:
    decoder = static(model, Recorder())
    first = decoder.sample(random_prompt((4, 6), 1), temperature=1.0, uniforms=uniforms(2))
    kept = [first.tokens.clone(), first.log_prob.clone(), first.feature.clone()]
    decoder.sample(random_prompt((6, 4), 2), temperature=1.0, uniforms=uniforms(2, seed=8))
    assert all(map(torch.equal, kept, (first.tokens, first.log_prob, first.feature)))


def test_only_the_shapes_used_last_are_kept(model: LlamaForCausalLM) -> None:
    recorder = Recorder()
    decoder = static(model, recorder)
    for length in (4, 5, 4, 6, 4, 5):
        decoder.sample(random_prompt((length, 2), 0), temperature=1.0, uniforms=None)
    assert recorder.captures == 4, "6 put 5 out, and 4 stayed throughout"


def test_an_update_gets_the_memory_back(model: LlamaForCausalLM, prompt: Prompt) -> None:
    recorder = Recorder()
    decoder = static(model, recorder)
    tokens = decoder.sample(prompt, temperature=1.0, uniforms=None).tokens
    with torch.no_grad():
        decoder.score(prompt, tokens, temperature=1.0)
        decoder.feature(prompt)
    decoder.sample(prompt, temperature=1.0, uniforms=None)
    assert recorder.captures == 1, "looking costs nothing"
    decoder.score(prompt, tokens, temperature=1.0)
    decoder.sample(prompt, temperature=1.0, uniforms=None)
    assert recorder.captures == 2


def test_prompts_take_the_causal_kernel_and_steps_an_aligned_mask(
    model: LlamaForCausalLM, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, bool, Tensor | None]] = []
    attention = F.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, **named: object) -> Tensor:
        mask = named.get("attn_mask")
        assert mask is None or isinstance(mask, Tensor)
        calls.append((query.shape[2], bool(named.get("is_causal")), mask))
        return attention(query, key, value, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    decoder, layers = static(model, lambda run: run), model.config.num_hidden_layers
    tokens = decoder.sample(prompt, temperature=1.0, uniforms=None).tokens
    prefill, steps = calls[:layers], calls[layers:]
    assert all(causal and mask is None for _, causal, mask in prefill)
    assert len(steps) == layers * (NUM_TOKENS - 1)
    for _, causal, mask in steps:
        assert not causal
        assert mask is not None
        assert mask.dtype == torch.float32
        assert mask.shape[-1] % 8 == 0
    calls.clear()
    decoder.score(prompt, tokens, temperature=1.0)
    assert [(length, causal, mask) for length, causal, mask in calls] == [
        (prompt.valid.shape[1] + NUM_TOKENS - 1, True, None)
    ] * layers


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_cuda_graph_replays_what_was_captured(model: LlamaForCausalLM) -> None:
    moved = copy.deepcopy(model).cuda()
    direct, graph = static(moved, directly), static(moved, captured)
    for seed in (1, 2):
        prompt, draws = random_prompt((5, 2, 8), seed), uniforms(3, seed=seed)
        prompt = Prompt(embeddings=prompt.embeddings.cuda(), valid=prompt.valid.cuda())
        one, two = (decoder.sample(prompt, temperature=1.0, uniforms=draws) for decoder in (direct, graph))
        assert torch.equal(one.tokens, two.tokens)
        torch.testing.assert_close(one.log_prob, two.log_prob, atol=1e-5, rtol=0)
        with torch.no_grad():
            moved.model.layers[0].mlp.up_proj.weight.mul_(1.5)  # a graph reads the weights where they are


def test_joined_by_hand() -> None:
    prompt = Prompt(
        embeddings=torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0], [5.0, 6.0, 0.0]])[..., None],
        valid=torch.tensor([[True, True, True], [True, False, False], [True, True, False]]),
    )
    more = torch.tensor([[10.0, 11.0], [20.0, 21.0], [30.0, 31.0]])[..., None]
    assert joined(prompt, more)[..., 0].tolist() == [[1, 2, 3, 10, 11], [4, 20, 21, 0, 0], [5, 6, 30, 31, 0]]


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
