"""The tiny policy behind the policy protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from builders import INSTRUCTIONS, observation, tiny_policy, weights
from vlarl.errors import Exit, RecipeError
from vlarl.policies.protocol import Sampled
from vlarl.policies.tiny.policy import TinyInputs, TinyPolicy
from vlarl.seeding import torch_threads
from vlarl.types import Observation

COUNT = 12


@pytest.fixture(scope="module")
def policy() -> TinyPolicy:
    return tiny_policy()


@pytest.fixture(scope="module")
def deep() -> TinyPolicy:
    return tiny_policy(vision="deep_keypoints")


@pytest.fixture(scope="module")
def sharp() -> TinyPolicy:
    """Decided enough that decoding mistakes show in the tokens."""
    policy = tiny_policy(seed=2)
    with torch.no_grad():
        policy.language_model.lm_head.weight.mul_(8.0)
    return policy


def uniforms(count: int = COUNT, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 7))


def sample(policy: TinyPolicy, seen: Observation, draws: np.ndarray | None, *, temperature: float = 1.0) -> Sampled:
    return policy.sample(policy.prepare(seen), temperature=temperature, uniforms=draws)


def rows(seen: Observation, chosen: Sequence[int]) -> Observation:
    return Observation(images=seen.images[list(chosen)], instructions=tuple(seen.instructions[i] for i in chosen))


def first_log_probs(policy: TinyPolicy, seen: Observation) -> torch.Tensor:
    """(N, V) of the first action token."""
    tokens = torch.zeros(len(seen.instructions), 7, dtype=torch.int64)
    with torch.no_grad():
        return policy.token_log_probs(policy.prepare(seen), tokens)[:, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("fixture", ["policy", "deep", "sharp"])
def test_scoring_gives_the_log_probabilities_of_sampling(
    fixture: str, temperature: float, request: pytest.FixtureRequest
) -> None:
    policy: TinyPolicy = request.getfixturevalue(fixture)
    seen = observation(48, seed=3)
    sampled = sample(policy, seen, uniforms(48), temperature=temperature)
    with torch.no_grad():
        scores = policy.score(policy.prepare(seen), sampled.tokens, temperature=temperature)
    # Measured over six seeds: 8e-6 for fresh weights, at log-probabilities near -40, where float32 counts in steps
    # of 4e-6; 1.6e-5 with the logits eight times as large.
    torch.testing.assert_close(scores.log_prob, sampled.log_prob, atol=4e-5, rtol=0)
    torch.testing.assert_close(scores.feature, sampled.feature, atol=1e-5, rtol=0)
    features = policy.features(policy.prepare(seen))
    torch.testing.assert_close(features, sampled.feature, atol=1e-5, rtol=0)


def test_shapes_and_types(policy: TinyPolicy) -> None:
    sampled = sample(policy, observation(COUNT), uniforms())
    assert (sampled.tokens.shape, sampled.tokens.dtype) == ((COUNT, 7), torch.int64)
    assert (sampled.log_prob.shape, sampled.log_prob.dtype) == ((COUNT,), torch.float32)
    assert (sampled.feature.shape, sampled.feature.dtype) == ((COUNT, policy.feature_size), torch.float32)
    assert 0 <= int(sampled.tokens.min()) <= int(sampled.tokens.max()) < policy.num_bins
    actions = policy.decode(sampled.tokens.numpy())
    assert actions.shape == (COUNT, 7)
    assert np.abs(actions).max() <= 1.0
    again = policy.decode(policy.encode(actions))
    assert np.array_equal(again, actions)


def test_a_deep_front_end_reads_the_mean_feature_under_each_keypoint(deep: TinyPolicy) -> None:
    vision, pixels = deep.vision, torch.rand(3, 3, 32, 32)
    assert vision.read is not None
    with torch.no_grad():
        numbers = vision._numbers(pixels)
        features = vision.maps[:-1](pixels)
        weights, what = vision.keypoints.weights(vision.maps[-1](features)), vision.read(features)
    count = deep.spec.num_keypoints
    assert numbers.shape == (3, count * (2 + 8))
    expected = torch.einsum("nks,ncs->nkc", weights, what.flatten(2))
    torch.testing.assert_close(numbers[:, 2 * count :], expected.flatten(1), atol=1e-6, rtol=1e-5)
    places = torch.einsum("nks,sd->nkd", weights, vision.keypoints.grid)
    torch.testing.assert_close(numbers[:, : 2 * count], places.flatten(1), atol=1e-6, rtol=1e-5)
    assert expected.std(dim=0).min() > 0, "it depends on the picture"


def test_log_probabilities_sum_to_one_over_the_action_tokens_alone(policy: TinyPolicy) -> None:
    log_probs = first_log_probs(policy, observation(4))
    assert log_probs.shape == (4, policy.num_bins)
    torch.testing.assert_close(log_probs.exp().sum(dim=-1), torch.ones(4), atol=1e-6, rtol=0)


def test_a_batch_of_mixed_instructions_equals_each_alone(sharp: TinyPolicy) -> None:
    """Prompts of different length are padded in the batch and are not alone."""
    seen, draws = observation(COUNT, seed=7), uniforms()
    together = sample(sharp, seen, draws)
    widths = set()
    for i in range(COUNT):
        inputs = sharp.prepare(rows(seen, [i]))
        widths.add(inputs.text.shape[1])
        alone = sharp.sample(inputs, temperature=1.0, uniforms=draws[i : i + 1])
        assert torch.equal(alone.tokens[0], together.tokens[i])
        # Measured over six seeds: 1.7e-5.
        torch.testing.assert_close(alone.log_prob[0], together.log_prob[i], atol=4e-5, rtol=0)
        torch.testing.assert_close(alone.feature[0], together.feature[i], atol=1e-5, rtol=0)
    assert len(widths) > 1, "padding was really at work"


def test_the_order_of_a_batch_does_not_matter(sharp: TinyPolicy) -> None:
    seen, draws, order = observation(COUNT, seed=7), uniforms(), list(reversed(range(COUNT)))
    forth, back = sample(sharp, seen, draws), sample(sharp, rows(seen, order), draws[order])
    assert torch.equal(back.tokens, forth.tokens[order])


def test_with_all_instructions_named_neighbours_change_no_bit(sharp: TinyPolicy) -> None:
    """Five rows, each beside others of another length: an evaluation that is filled or in shards needs that.

    With one thread, as episodes are decided by default: several share the rows of a product out among them, and the
    last bits then depend on the place of a row.
    """
    seen, draws = observation(COUNT, seed=7), uniforms()
    among = sorted(set(seen.instructions))
    same = [0] * 5
    with torch_threads(1):
        first = sharp.sample(sharp.prepare(rows(seen, same), among=among), temperature=1.0, uniforms=draws[same])
        for chosen in ([0, 3, 6, 9, 0], [0, 1, 2, 4, 5], [2, 5, 8, 11, 0]):
            inputs = sharp.prepare(rows(seen, chosen), among=among)
            found = sharp.sample(inputs, temperature=1.0, uniforms=draws[chosen])
            at = chosen.index(0)
            assert torch.equal(found.log_prob[at], first.log_prob[0])
            assert torch.equal(found.feature[at], first.feature[0])


@pytest.mark.parametrize("extra", [4, 20])
def test_more_padding_changes_nothing(sharp: TinyPolicy, extra: int) -> None:
    inputs, draws = sharp.prepare(observation(COUNT, seed=7)), uniforms()
    wider = padded(inputs, extra)
    narrow, wide = (sharp.sample(given, temperature=1.0, uniforms=draws) for given in (inputs, wider))
    assert torch.equal(narrow.tokens, wide.tokens)
    torch.testing.assert_close(narrow.log_prob, wide.log_prob, atol=4e-5, rtol=0)
    torch.testing.assert_close(narrow.feature, wide.feature, atol=1e-5, rtol=0)


def padded(inputs: TinyInputs, extra: int) -> TinyInputs:
    """The same prompts, further padded with some token."""
    return replace(
        inputs,
        text=torch.nn.functional.pad(inputs.text, (0, extra), value=5),
        text_valid=torch.nn.functional.pad(inputs.text_valid, (0, extra), value=False),
    )


def test_frequencies_follow_the_distribution(sharp: TinyPolicy) -> None:
    """Chi-square of the first token over many uniforms, rare tokens taken together."""
    count = 2048
    one = observation(1, seed=9)
    many = Observation(images=np.repeat(one.images, count, axis=0), instructions=one.instructions * count)
    tokens = sample(sharp, many, uniforms(count)).tokens[:, 0].numpy()
    expected = first_log_probs(sharp, one)[0].double().exp().numpy() * count
    common = expected >= 10
    observed = np.bincount(tokens, minlength=256)
    groups = np.append(observed[common], observed[~common].sum())
    probable = np.append(expected[common], expected[~common].sum())
    assert len(groups) > 3
    assert stats.chisquare(groups, probable / probable.sum() * count).pvalue > 1e-3


def test_greedy_takes_the_most_likely_token_each_time(sharp: TinyPolicy) -> None:
    seen = observation(COUNT, seed=4)
    greedy = sample(sharp, seen, None)
    with torch.no_grad():
        best = sharp.token_log_probs(sharp.prepare(seen), greedy.tokens).argmax(dim=-1)
    assert torch.equal(greedy.tokens, best)
    assert torch.equal(sample(sharp, seen, None, temperature=3.0).tokens, greedy.tokens), "at any temperature"
    assert not torch.equal(sample(sharp, seen, uniforms()).tokens, greedy.tokens)


def test_temperature_sharpens_and_flattens(policy: TinyPolicy) -> None:
    seen = observation(COUNT)
    tokens = torch.zeros(COUNT, 7, dtype=torch.int64)
    entropies = []
    for temperature in (0.25, 1.0, 4.0):
        with torch.no_grad():
            entropies.append(policy.score(policy.prepare(seen), tokens, temperature=temperature).entropy)
    assert bool((entropies[0] < entropies[1]).all())
    assert bool((entropies[1] < entropies[2]).all())
    assert float(entropies[2].max()) <= np.log(256) + 1e-5


def test_a_low_temperature_takes_the_most_likely_tokens(sharp: TinyPolicy) -> None:
    seen = observation(COUNT, seed=4)
    cold = sample(sharp, seen, uniforms(), temperature=1e-4).tokens
    with torch.no_grad():
        log_probs = sharp.token_log_probs(sharp.prepare(seen), cold)
    short = log_probs.amax(dim=-1) - log_probs.gather(2, cold[..., None])[..., 0]
    assert float(short.max()) < 40 * 1e-4, "forty temperatures below the best is out of reach"


def test_images_matter(policy: TinyPolicy) -> None:
    seen = observation(2, instructions=INSTRUCTIONS[:1])
    one, other = first_log_probs(policy, seen)
    assert float((one - other).abs().max()) > 1e-3


def test_one_object_that_moves_matters(policy: TinyPolicy) -> None:
    images = np.full((2, 32, 32, 3), 90, np.uint8)
    images[0, 8:12, 8:12] = (200, 30, 30)
    images[1, 20:24, 18:22] = (200, 30, 30)
    one, other = first_log_probs(policy, Observation(images=images, instructions=(INSTRUCTIONS[0],) * 2))
    assert float((one - other).abs().max()) > 1e-3


@pytest.mark.parametrize(
    "paraphrase",
    ["touch the crimson box", "reach the green cube", "reach the red cube now", "Den roten Würfel anfassen"],
)
def test_an_unseen_paraphrase_is_encodable_and_matters(policy: TinyPolicy, paraphrase: str) -> None:
    images = np.repeat(observation(1).images, 2, axis=0)
    one, other = first_log_probs(policy, Observation(images=images, instructions=("reach the red cube", paraphrase)))
    assert bool(torch.isfinite(other).all())
    assert float((one - other).abs().max()) > 1e-3


def test_the_case_of_an_instruction_does_not_matter(policy: TinyPolicy) -> None:
    images = np.repeat(observation(1).images, 2, axis=0)
    one, other = first_log_probs(
        policy, Observation(images=images, instructions=("Reach the RED cube", "reach the red cube"))
    )
    assert torch.equal(one, other)


def test_too_long_a_prompt_is_an_error_whose_hint_works() -> None:
    instruction = " ".join(["stack the red cube"] * 30)
    with pytest.raises(RecipeError) as caught:
        tiny_policy().prepare(observation(1, instructions=(instruction,)))
    error = caught.value
    assert (error.code, error.exit_status) == ("R216", Exit.RECIPE)
    assert error.hint is not None
    knob, _, value = error.hint.removeprefix("--set ").partition("=")
    assert knob == "policy.max_prompt_length"
    tiny_policy(max_prompt_length=int(value)).prepare(observation(1, instructions=(instruction,)))


def test_the_seed_decides_the_first_weights() -> None:
    torch.manual_seed(123)
    first = weights(tiny_policy(seed=1))
    torch.manual_seed(456)
    assert torch.equal(weights(tiny_policy(seed=1)), first)
    assert not torch.equal(weights(tiny_policy(seed=2)), first)


def test_every_weight_is_trainable_and_in_one_group(policy: TinyPolicy) -> None:
    groups = policy.trainable_groups()
    assert list(groups) == ["vision", "language_model"]
    listed = [id(p) for group in groups.values() for p in group]
    assert sorted(listed) == sorted({id(p) for p in policy.parameters()})


def test_weights_travel_by_state_dict(policy: TinyPolicy) -> None:
    other, seen, draws = tiny_policy(seed=99), observation(COUNT), uniforms()
    assert not torch.equal(sample(other, seen, draws).log_prob, sample(policy, seen, draws).log_prob)
    other.load_state_dict(policy.state_dict())
    assert torch.equal(sample(other, seen, draws).log_prob, sample(policy, seen, draws).log_prob)


def test_identity_names_what_a_checkpoint_must_share(policy: TinyPolicy) -> None:
    assert policy.identity == tiny_policy(seed=5).identity
    assert policy.identity != tiny_policy(hidden_size=48).identity
    assert policy.identity != tiny_policy(image_size=64).identity
    assert policy.identity != tiny_policy(vision="deep_keypoints").identity
    assert "delta_xyz" in str(policy.identity["action"])


def test_preparing_and_sampling_draw_nothing_from_the_global_generator(policy: TinyPolicy) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    sample(policy, observation(2), uniforms(2))
    assert torch.equal(torch.get_rng_state(), before)
