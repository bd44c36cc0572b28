"""OpenVLA-OFT: all tokens of a chunk from one forward, on a small random checkpoint in the published layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parts import COUNT, SUITE, check_that_a_batch_equals_each_alone, decide, knobs_of, seen, stir
from torch import Tensor

from builders import INSTRUCTIONS, make_batch, weights
from vlarl.critics.shared import SharedCritic
from vlarl.errors import RecipeError
from vlarl.policies.openvla.oft import OpenVlaOftPolicy
from vlarl.policies.openvla.policy import OpenVlaPolicy
from vlarl.policies.parallel_decoding import parallel_bias
from vlarl.ppo import Ppo
from vlarl.recipe.load import parse_recipe
from vlarl.recipe.specs.learning import PpoSpec
from vlarl.recipe.specs.policies import OpenVlaOftSpec, OpenVlaSpec, SharedCriticSpec
from vlarl.types import Observation

CHUNK = 3
NUM_TOKENS = 7 * CHUNK
ATTENTIONS = ("all", "actions")


def make_policy(folder: Path, *, seed: int = 1, **knobs: Any) -> OpenVlaOftPolicy:
    spec = OpenVlaOftSpec(**knobs_of(folder, **{"chunk": CHUNK, **knobs}))
    return OpenVlaOftPolicy(spec, suite=SUITE, seed=seed)


@pytest.fixture(scope="module", params=ATTENTIONS)
def policy(folder: Path, request: pytest.FixtureRequest) -> OpenVlaOftPolicy:
    return decide(make_policy(folder, attention=request.param))


def uniforms(count: int = COUNT, num_tokens: int = NUM_TOKENS) -> np.ndarray:
    return np.random.default_rng(5).random((count, num_tokens))


def log_probs(policy: OpenVlaOftPolicy, inputs: Any) -> Tensor:
    """(N, A, V), which no token changes."""
    with torch.no_grad():
        return policy.token_log_probs(inputs, torch.zeros(len(inputs.text), NUM_TOKENS, dtype=torch.int64))


# --- one decision ---


@pytest.mark.parametrize("temperature", [0.7, 1.6])
def test_scoring_gives_the_log_probabilities_of_sampling(policy: OpenVlaOftPolicy, temperature: float) -> None:
    inputs = policy.prepare(seen(24))
    sampled = policy.sample(inputs, temperature=temperature, uniforms=uniforms(24))
    assert sampled.tokens.shape == (24, NUM_TOKENS)
    assert len(sampled.tokens.unique()) > 20
    with torch.no_grad():
        scores = policy.score(inputs, sampled.tokens, temperature=temperature)
    # Measured: 0. Both are the same forward.
    torch.testing.assert_close(scores.log_prob, sampled.log_prob, atol=1e-6, rtol=0)
    assert torch.equal(scores.feature, sampled.feature)
    assert torch.equal(policy.features(inputs).detach(), sampled.feature)


def test_bfloat16_scores_are_those_of_sampling(folder: Path) -> None:
    policy = make_policy(folder, dtype="bfloat16")
    stir(policy.adapters.weights("policy"))
    inputs = policy.prepare(seen(24))
    sampled = policy.sample(inputs, temperature=1.0, uniforms=uniforms(24))
    with torch.no_grad():
        scores = policy.score(inputs, sampled.tokens, temperature=1.0)
    assert scores.log_prob.dtype == torch.float32
    torch.testing.assert_close(scores.log_prob, sampled.log_prob, atol=1e-6, rtol=0)  # measured: 0


def test_a_decision_has_one_log_probability_the_sum_over_its_chunk(policy: OpenVlaOftPolicy) -> None:
    inputs = policy.prepare(seen())
    sampled = policy.sample(inputs, temperature=1.0, uniforms=uniforms())
    each = log_probs(policy, inputs).gather(2, sampled.tokens[..., None])[..., 0]
    assert sampled.log_prob.shape == (COUNT,)
    # Measured: 7.7e-6, near -70.
    torch.testing.assert_close(sampled.log_prob, each.double().sum(dim=1).float(), atol=5e-5, rtol=0)
    assert float(each[:, 7:].sum(dim=1).abs().min()) > 1.0, "the later control steps are in it"


def test_one_value_per_decision(folder: Path) -> None:
    policy = make_policy(folder)
    critic = SharedCritic(SharedCriticSpec(hidden_sizes=[16]), policy=policy, seed=1)
    with torch.no_grad():
        values = critic.value(policy.features(policy.prepare(seen(8))))
    assert values.shape == (8,)
    assert float(values.std()) > 1e-4


def test_tokens_do_not_depend_on_each_other(policy: OpenVlaOftPolicy) -> None:
    """Drawn by one uniform each, and scored alike whatever the others are."""
    inputs, draws = policy.prepare(seen()), uniforms()
    one = policy.sample(inputs, temperature=1.0, uniforms=draws).tokens
    draws[:, 4] = (draws[:, 4] + 0.5) % 1.0
    other = policy.sample(inputs, temperature=1.0, uniforms=draws).tokens
    assert (one != other).any(dim=0).nonzero().flatten().tolist() == [4]


def test_greedy_takes_the_likeliest(policy: OpenVlaOftPolicy) -> None:
    inputs = policy.prepare(seen())
    greedy = policy.sample(inputs, temperature=1.0, uniforms=None).tokens
    assert torch.equal(greedy, log_probs(policy, inputs).argmax(dim=-1))


def test_the_sliced_head_gives_what_the_whole_head_gives(policy: OpenVlaOftPolicy) -> None:
    inputs = policy.prepare(seen())
    first = policy.model.sizes.first_action_row
    with torch.no_grad():
        hidden = policy._decoder.predicting(policy._prompt(inputs))  # type: ignore[attr-defined]
        logits = policy.model.language_model.lm_head(hidden)[..., first : first + 256]
    # Measured: 0.
    torch.testing.assert_close(logits.log_softmax(dim=-1), log_probs(policy, inputs), atol=1e-6, rtol=0)


def test_actions_are_those_of_each_control_step(policy: OpenVlaOftPolicy) -> None:
    tokens = np.random.default_rng(0).integers(0, 256, (COUNT, NUM_TOKENS))
    actions = policy.decode(tokens)
    assert actions.shape == (COUNT, NUM_TOKENS)
    assert actions.dtype == np.float32
    for step in range(CHUNK):
        part = slice(7 * step, 7 * step + 7)
        np.testing.assert_array_equal(actions[:, part], OpenVlaPolicy.decode(policy, tokens[:, part]))
        again = policy.decode(np.tile(policy.encode(actions[:, part]), CHUNK))[:, :7]
        np.testing.assert_allclose(again, actions[:, part], atol=1 / 255)


# --- who attends to whom ---


def test_the_mask_column_by_column() -> None:
    valid = torch.tensor([[True, True, True], [True, True, False]])
    prompt = {"all": [[1, 1, 1], [1, 1, 1], [1, 1, 1]], "actions": [[1, 0, 0], [1, 1, 0], [1, 1, 1]]}
    for attention, top in prompt.items():
        found = parallel_bias(valid, 2, torch.float32, attention) == 0  # type: ignore[arg-type]
        assert found.shape == (2, 1, 5, 5)
        sees_actions = int(attention == "all")
        first = [[*row, sees_actions, sees_actions] for row in top] + [[1] * 5] * 2
        second = [[*row[:2], 0, *row[3:]] for row in first]
        assert found[:, 0].int().tolist() == [first, second]


@contextmanager
def changed_column(policy: OpenVlaOftPolicy, column: int) -> Iterator[None]:
    """What stands in one column in front of the first layer, in every row."""

    def change(module: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = given[0].clone()
        hidden[:, column] += torch.linspace(-1.0, 1.0, hidden.shape[-1])
        return (hidden, *given[1:])

    handle = policy.model.language_model.model.layers[0].register_forward_pre_hook(change)
    try:
        yield
    finally:
        handle.remove()


def moved(policy: OpenVlaOftPolicy, inputs: Any, column: int) -> np.ndarray:
    """(A,) by how much the log-probabilities of each action token depend on ``column``."""
    plain = log_probs(policy, inputs)
    with changed_column(policy, column):
        other = log_probs(policy, inputs)
    return (plain - other).abs().amax(dim=(0, 2)).numpy()


def num_columns(policy: OpenVlaOftPolicy, inputs: Any) -> int:
    return policy._prompt(inputs).embeddings.shape[1]


def test_a_later_column_changes_an_earlier_action(policy: OpenVlaOftPolicy) -> None:
    inputs = policy.prepare(Observation(images=seen(2).images, instructions=("push it",) * 2))
    end = num_columns(policy, inputs)
    for column in (end + NUM_TOKENS - 2, end + NUM_TOKENS):  # the last that predicts, and the end of the text
        found = moved(policy, inputs, column)
        assert found[1:].min() > 1e-3, "in both directions"
        if policy.spec.attention == "all":  # type: ignore[attr-defined]
            assert found[0] > 1e-3
        else:
            assert found[0] == 0.0, "the prompt's last token, which predicts the first action token, is causal"


def test_an_early_column_changes_every_action(policy: OpenVlaOftPolicy) -> None:
    inputs = policy.prepare(seen(2))
    first_word = 1 + policy.model.sizes.num_patches
    assert moved(policy, inputs, first_word).min() > 1e-3


def test_padding_is_seen_by_nobody(policy: OpenVlaOftPolicy) -> None:
    inputs = policy.prepare(Observation(images=seen(2).images, instructions=("push it",) * 2), among=INSTRUCTIONS)
    assert not inputs.text_valid[:, -1].any()
    assert moved(policy, inputs, num_columns(policy, inputs) - 1).max() == 0.0


def test_behind_a_causal_prompt_the_first_token_is_openvlas(folder: Path) -> None:
    """`actions` leaves the prompt, critic's feature included, as OpenVLA computes it; `all` does not."""
    plain = OpenVlaPolicy(OpenVlaSpec(**knobs_of(folder)), suite=SUITE, seed=1)
    inputs = plain.prepare(seen())
    with torch.no_grad():
        feature = plain.features(inputs)
        first = plain.token_log_probs(inputs, torch.zeros(COUNT, 7, dtype=torch.int64))[:, 0]
    found = {attention: make_policy(folder, attention=attention) for attention in ATTENTIONS}
    # Measured: 0, though one has a mask and the other has none. Kernels of another processor may add otherwise.
    torch.testing.assert_close(found["actions"].features(inputs).detach(), feature, atol=1e-5, rtol=0)
    torch.testing.assert_close(log_probs(found["actions"], inputs)[:, 0], first, atol=1e-5, rtol=0)
    assert float((found["all"].features(inputs).detach() - feature).abs().max()) > 0.01


# --- batches ---


def test_a_batch_of_mixed_instructions_equals_each_alone(policy: OpenVlaOftPolicy) -> None:
    # Measured: 0. Kernels of another processor may add otherwise in another shape.
    check_that_a_batch_equals_each_alone(policy, uniforms(), atol=8e-5)


def test_the_picture_is_looked_at_by_every_control_step(policy: OpenVlaOftPolicy) -> None:
    one = seen(1)
    other = replace(one, images=255 - one.images)
    apart = (log_probs(policy, policy.prepare(one)) - log_probs(policy, policy.prepare(other))).abs()
    assert float(apart.amax(dim=(0, 2)).min()) > 0.05


# --- adapters and updates ---


def test_fresh_adapters_change_nothing_and_base_is_without_them(folder: Path) -> None:
    plain, adapted = make_policy(folder, lora=None), make_policy(folder)
    inputs = plain.prepare(seen())
    with torch.no_grad():
        base = plain.features(inputs)
        assert torch.equal(adapted.features(inputs), base)
        stir(adapted.adapters.weights("policy"))
        assert float((adapted.features(inputs) - base).abs().max()) > 0.05
        assert torch.equal(adapted.features(inputs, adapter="base"), base)


def test_identity_tells_chunks_and_attention_apart(folder: Path) -> None:
    policy = make_policy(folder)
    assert policy.identity == make_policy(folder, seed=5).identity
    others = [make_policy(folder, chunk=4), make_policy(folder, attention="actions")]
    assert all(policy.identity != other.identity for other in others)
    assert policy.identity != OpenVlaPolicy(OpenVlaSpec(**knobs_of(folder)), suite=SUITE, seed=1).identity


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_update_makes_good_chunks_likelier_and_never_moves_the_base(folder: Path, checkpointing: bool) -> None:
    policy = make_policy(folder, gradient_checkpointing=checkpointing)
    critic = SharedCritic(SharedCriticSpec(hidden_sizes=[16]), policy=policy, seed=1)
    batch = make_batch(policy, critic, 12, image_size=64, num_tokens=NUM_TOKENS)
    base = {name: p.clone() for name, p in policy.model.named_parameters() if not p.requires_grad}
    knobs = PpoSpec(lr=1e-3, minibatch_size=12, micro_batch_size=4, epochs=8, max_grad_norm=100.0, target_kl=None)
    stats = Ppo(knobs, policy, critic, critic_warmup=0, iterations=9, seed=1).update(batch, 0)
    assert stats.policy_updated
    assert stats.first_ratio_error < 1e-5  # measured: 0
    assert stats.ratio_spread > 1e-2
    assert all(torch.equal(dict(policy.model.named_parameters())[name], p) for name, p in base.items())
    with torch.no_grad():
        inputs = policy.prepare(Observation(images=batch.images, instructions=seen(12).instructions))
        after = policy.score(inputs, torch.from_numpy(batch.tokens), temperature=1.0).log_prob.numpy()
    gain = after - batch.old_log_probs
    assert np.corrcoef(gain, batch.advantages)[0, 1] > 0.5


def test_recomputed_blocks_give_the_same_gradients(folder: Path) -> None:
    found = []
    for checkpointing in (False, True):
        policy = make_policy(folder, gradient_checkpointing=checkpointing)
        stir(policy.adapters.weights("policy"))
        inputs = policy.prepare(seen())
        policy.score(inputs, torch.full((COUNT, NUM_TOKENS), 3), temperature=1.0).log_prob.mean().backward()
        parameters = [p for group in policy.trainable_groups().values() for p in group]
        assert all(p.grad is not None for p in parameters)
        found.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
    assert float(found[0].abs().max()) > 1e-3
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-5)


def test_weights_travel_to_a_policy_of_the_same_chunk(folder: Path, policy: OpenVlaOftPolicy) -> None:
    other = make_policy(folder, seed=9, attention=policy.spec.attention)  # type: ignore[attr-defined]
    other.load_state_dict(policy.state_dict())
    assert torch.equal(
        weights(*[torch.nn.ParameterList(policy.adapters.weights("policy").values())]),
        weights(*[torch.nn.ParameterList(other.adapters.weights("policy").values())]),
    )


# --- what cannot be ---


@pytest.mark.parametrize(("knob", "code"), [("chunk: 0", "R105"), ("attention: causal", "R106"), ("chunks: 8", "R102")])
def test_a_recipe_that_cannot_be_is_refused_at_its_place(knob: str, code: str) -> None:
    text = f"name: a\npolicy:\n  kind: openvla_oft\n  checkpoint: anywhere\n  {knob}\n"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text)
    [found] = caught.value.diagnostics
    assert found.code == code
    assert knob.split(":")[0] in found.message


def test_a_chunk_beyond_the_context_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match="leave no room for a prompt") as caught:
        make_policy(folder, chunk=300)
    assert caught.value.code == "R216"
    assert "policy.chunk" in str(caught.value.hint)


def test_a_prompt_and_a_chunk_fill_the_context_to_the_last_column(folder: Path) -> None:
    """Of 2,048: 16 of the picture, 1 for the end of the text; the prompt of one instruction takes the rest exactly."""
    prompt = len(make_policy(folder)._prompts.ids("push it"))
    chunk, left = divmod(2048 - 16 - 1 - prompt, 7)
    padded = "push it" + " up" * left
    fits = make_policy(folder, chunk=chunk)
    assert len(fits._prompts.ids(padded)) == prompt + left
    fits.prepare(Observation(images=seen(1).images, instructions=(padded,)))
    with pytest.raises(RecipeError) as caught:
        fits.prepare(Observation(images=seen(1).images, instructions=(padded + " up",)))
    assert caught.value.code == "R216"
