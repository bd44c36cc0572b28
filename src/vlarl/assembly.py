"""From a recipe to the objects of a run: the only place where sections become parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from vlarl.distributed import ALONE, Ranks
from vlarl.errors import AssetError, RecipeError
from vlarl.memory import keep_freed_memory
from vlarl.ppo import Ppo
from vlarl.recipe.paths import expanded
from vlarl.recipe.schema import Recipe
from vlarl.recipe.specs.base import PartSpec
from vlarl.recipe.specs.policies import OpenVlaSpec
from vlarl.recipe.specs.rewards import DenseOracleRewardSpec, ProcessRewardSpec
from vlarl.registry import build
from vlarl.rewards.combine import Rewards
from vlarl.run import checkpoint
from vlarl.seeding import apply_determinism
from vlarl.types import SuiteFacts

if TYPE_CHECKING:
    from vlarl.curriculum import Curriculum
    from vlarl.policies.protocol import Critic, Policy
    from vlarl.rewards.protocol import Reward
    from vlarl.suites.protocol import Suite


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that learns or is learned from."""

    suite: Suite
    policy: Policy
    critic: Critic
    rewards: Rewards
    curriculum: Curriculum
    ppo: Ppo

    @property
    def instructions(self) -> tuple[str, ...]:
        return tuple(task.instruction for task in self.suite.tasks())

    def weights(self) -> dict[str, dict[str, Any]]:
        """Named tensors of policy and critic."""
        return {"policy": dict(self.policy.state_dict()), "critic": dict(self.critic.state_dict())}


def build_suite(recipe: Recipe) -> Suite:
    suite: Suite = build(recipe.suite)
    return suite


def build_policy(recipe: Recipe, suite: Suite, **more: Any) -> Policy:
    """The policy with its initial weights; RecipeError when it and the suite mean different things by an action.

    ``more`` is what only policies of that kind are told.
    """
    facts = SuiteFacts(name=suite.name, image_size=suite.conventions.image_size)
    policy: Policy = build(recipe.policy, suite=facts, seed=recipe.imitation_seed, **more)
    if policy.action_convention != suite.conventions.action:
        raise RecipeError(
            f"policy and suite disagree about actions: the policy gives «{policy.action_convention}», "
            f"`{suite.name}` takes «{suite.conventions.action}»",
            code="R217",
            hint="choose another policy or suite",
        )
    return policy


def build_parts(recipe: Recipe, ranks: Ranks = ALONE) -> Parts:
    """Sets torch up as the recipe asks and builds every part, with initial weights."""
    _set_up_torch(recipe, recipe.train.torch_threads)
    suite = build_suite(recipe)
    policy = build_policy(recipe, suite)
    critic: Critic = build(recipe.critic, policy=policy, seed=recipe.seed)
    num_inits = [suite.num_inits(task.index, "train") for task in suite.tasks()]
    return Parts(
        suite=suite,
        policy=policy,
        critic=critic,
        rewards=Rewards([_build_reward(spec, recipe, suite) for spec in recipe.rewards]),
        curriculum=build(recipe.curriculum, num_inits=num_inits, seed=recipe.seed),
        ppo=Ppo(
            recipe.ppo if recipe.ppo.advantage == "gae" else recipe.ppo.model_copy(update={"value_coef": 0.0}),
            policy,
            critic,
            critic_warmup=recipe.train.critic_warmup,
            iterations=recipe.train.iterations,
            seed=recipe.seed,
            num_shards=recipe.suite.num_shards,
            ranks=ranks,
        ),
    )


def _build_reward(spec: PartSpec, recipe: Recipe, suite: Suite) -> Reward:
    """AssetError R395-R398 where the model of a process reward cannot judge this suite."""
    reward: Reward
    if isinstance(spec, DenseOracleRewardSpec):
        reward = build(spec, gamma=recipe.ppo.gamma, truncation=recipe.ppo.truncation)
        return reward
    if not isinstance(spec, ProcessRewardSpec):
        reward = build(spec)
        return reward
    from vlarl.prm.folder import Meaning, check_meaning, load_reward_model

    scorer = load_reward_model(expanded(spec.model), spec.device)
    conventions = suite.conventions
    wanted = Meaning(action=conventions.action, suite=recipe.suite.kind, image_size=conventions.image_size)
    check_meaning(scorer, wanted)
    horizons = [task.horizon for task in suite.tasks()]
    ppo, iterations = recipe.ppo, recipe.train.iterations
    discounting = {"gamma": ppo.gamma, "truncation": ppo.truncation}
    reward = build(spec, scorer=scorer, horizons=horizons, iterations=iterations, **discounting)
    return reward


@dataclass(frozen=True, kw_only=True)
class LoadedPolicy:
    """A policy with the weights of a checkpoint."""

    policy: Policy
    recipe: Recipe
    suite: Suite
    iteration: int | None  # None: not of a run
    digest: str  # of the policy's weights
    passed_over: tuple[str, ...] = ()  # newer checkpoints that are damaged, and how
    source: str | None = None  # checkpoint in Hugging Face layout, for people: folder's name, or hf://owner/name@commit


def load_policy(source: Path) -> LoadedPolicy:
    """The policy of a run's newest whole checkpoint, or of the checkpoint at ``source``.

    Raises AssetError when there is none, when it is damaged or when it does not say what it holds.
    """
    from vlarl.digest import named_arrays_digest

    found = checkpoint.load(source)
    recipe = stored_recipe(found)
    _set_up_torch(recipe, recipe.train.rollout_threads)
    suite = build_suite(recipe)
    policy = build_policy(recipe, suite)
    checkpoint.load(found.path, policy=policy.identity)
    found.fill(policy, "policy")
    digest = named_arrays_digest((name, tensor.cpu().numpy()) for name, tensor in policy.state_dict().items())
    return LoadedPolicy(
        policy=policy,
        recipe=recipe,
        suite=suite,
        iteration=found.iteration,
        digest=digest,
        passed_over=found.warnings,
    )


def load_weights(recipe: Recipe) -> LoadedPolicy:
    """The policy of the checkpoint in Hugging Face layout that ``recipe.policy`` names, to act and not to train.

    The weights are in memory once, in ``policy.dtype``. Raises AssetError when the checkpoint cannot be used.
    """
    from vlarl.policies.openvla.hub import pinned, resolve

    spec = recipe.policy
    assert isinstance(spec, OpenVlaSpec), spec.kind
    _set_up_torch(recipe, recipe.train.rollout_threads)
    folder = resolve(spec.checkpoint)
    local = recipe.model_copy(update={"policy": spec.model_copy(update={"checkpoint": str(folder)})})
    suite = build_suite(recipe)
    policy = build_policy(local, suite, trained=False)
    return LoadedPolicy(
        policy=policy,
        recipe=recipe,
        suite=suite,
        iteration=None,
        digest=policy.identity["base"],
        source=pinned(spec.checkpoint, folder),
    )


def _set_up_torch(recipe: Recipe, num_threads: int) -> None:
    apply_determinism(recipe.determinism, num_threads)
    keep_freed_memory()


def stored_recipe(found: checkpoint.Checkpoint) -> Recipe:
    """The recipe of the run that wrote a checkpoint; AssetError (R354) when this version does not understand it."""
    try:
        return Recipe.model_validate_json(found.state["recipe"])
    except (KeyError, ValidationError) as error:
        raise AssetError(
            f"checkpoint {found.path.name} holds a recipe that this vlarl does not understand",
            code="R354",
            place=str(found.path),
            hint="use the version of vlarl that the run's manifest.json names",
        ) from error
