"""What a manifest says of a run's parts: recipe, renderer, and everything that is read besides the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from vlarl.devices import chosen_device
from vlarl.digest import file_digest
from vlarl.errors import AssetError
from vlarl.recipe.load import LoadedRecipe
from vlarl.recipe.paths import expanded
from vlarl.recipe.schema import Recipe
from vlarl.run.installed import graphics_libraries
from vlarl.run.manifest import Intent
from vlarl.suites.demonstrations import demonstration_files
from vlarl.suites.protocol import Inspectable, Suite

if TYPE_CHECKING:
    from vlarl.assembly import Parts

Assets = tuple[dict[str, Any], ...]


def intent_of(
    loaded: LoadedRecipe,
    suite: Suite,
    assets: Assets,
    command: Sequence[str],
    parent: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Intent:
    recipe = loaded.recipe
    tier, reason = _expected_tier(recipe, suite)
    return Intent(
        command=tuple(command),
        recipe_sources={str(source.path): source.path.read_bytes() for source in loaded.sources},
        overrides=tuple(loaded.overrides),
        recipe_digest=loaded.digest,
        seed=recipe.seed,
        determinism=recipe.determinism,
        tier=tier,
        tier_reason=reason,
        renderer=renderer_of(suite),
        assets=assets,
        parent=parent,
        extra=extra or {},
    )


def _expected_tier(recipe: Recipe, suite: Suite) -> tuple[str, str]:
    """How far a repetition should get, and on what that rests."""
    if recipe.determinism != "strict":
        return "T1", f"determinism: {recipe.determinism}"
    device = chosen_device(getattr(recipe.policy, "device", "cpu"), what="the policy")
    kernels = "deterministic CPU kernels" if device.type == "cpu" else "deterministic kernels of this kind of GPU"
    drawn = "a software renderer" if getattr(suite, "renderer", None) != "egl" else "what EGL draws on this machine"
    return "T4", f"{kernels} and {drawn}, on this processor"


def renderer_of(suite: Suite) -> dict[str, Any]:
    """The GL backend and the graphics libraries that it has loaded into this process."""
    return {"backend": getattr(suite, "renderer", None), "libraries": graphics_libraries()}


def suite_assets(suite: Suite) -> Assets:
    """The suite's models, meshes, task files and init states."""
    named = dict(suite.assets()) if isinstance(suite, Inspectable) else {}
    return tuple({"kind": "suite", "name": f"{suite.name}/{name}", "sha256": named[name]} for name in sorted(named))


def assets_of(parts: Parts, recipe: Recipe) -> Assets:
    """What a run reads besides its recipe: the suite's models, base weights, reward models, demonstrations."""
    found: list[dict[str, Any]] = list(suite_assets(parts.suite))
    if base := parts.policy.identity.get("base"):
        found.append({"kind": "policy", "name": "base weights", "sha256": base})
    models = sorted(parts.rewards.digests.items())
    found += [{"kind": "reward model", "name": name, "sha256": digest} for name, digest in models]
    source = recipe.imitation.demonstrations if recipe.imitation else None
    if source:
        with suppress(AssetError):  # the warm start tells of files that are missing, once the run has a manifest
            for path in demonstration_files(expanded(source)):
                found.append({"kind": "demonstrations", "name": path.name, "sha256": file_digest(path)})
    return tuple(found)
