"""What each code of a recipe's diagnostics means, for `vlarl explain CODE` and the docs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vlarl.recipe.code import Code
from vlarl.recipe.codes_of_inputs import OF_INPUTS
from vlarl.recipe.codes_of_runs import OF_RUNS
from vlarl.recipe.codes_of_studies import OF_STUDIES

__all__ = ["CODES", "Code"]


def _in_order(codes: Mapping[str, Code]) -> Mapping[str, Code]:
    """Recipes and inputs first, then usage, environment, failed runs, drift."""
    return MappingProxyType(dict(sorted(codes.items(), key=lambda item: ("RUEXD".index(item[0][0]), item[0]))))


CODES: Mapping[str, Code] = _in_order(
    {
        "R100": Code(
            "invalid recipe",
            "What went wrong is in the diagnostics, each with a code of its own.",
        ),
        "R101": Code(
            "not valid YAML",
            "The text could not be read as UTF-8 YAML 1.2. The place is where the reader lost the thread; the cause is "
            "often one line above: a missing quote or bracket, a tab, or wrong indentation.",
            "ppo: {lr: 1e-4",
            "ppo: {lr: 1e-4}",
        ),
        "R102": Code(
            "unknown key",
            "No section takes keys it does not know: a mistyped knob would otherwise train with its default.",
            "ppo: {gama: 0.9}",
            "ppo: {gamma: 0.9}",
        ),
        "R103": Code(
            "missing key",
            "A key without a default is missing. Every reward of the list must name its `kind`.",
            "rewards: [{weight: 2.0}]",
            "rewards: [{kind: success, weight: 2.0}]",
        ),
        "R104": Code(
            "wrong type",
            "Types are strict: text is not a number, `1.0` is not a whole number, `yes` is text. A whole number "
            "is fine where a number is asked for.",
            'ppo: {lr: "1e-4"}',
            "ppo: {lr: 1e-4}",
        ),
        "R105": Code(
            "out of range",
            "The value has the right type but lies outside its limits.",
            "ppo: {clip: 0}",
            "ppo: {clip: 0.2}",
        ),
        "R106": Code(
            "not one of the choices",
            "The key takes one of a few words.",
            "ppo: {truncation: bootstraped}",
            "ppo: {truncation: bootstrap}",
        ),
        "R107": Code(
            "unknown kind",
            "`kind` chooses the part. The built-in kinds and those of installed packages (entry points of group "
            "`vlarl.parts`) are known.",
            "suite: {kind: table}",
            "suite: {kind: tabletop}",
        ),
        "R108": Code(
            "duplicate key",
            "One mapping gives the same key twice, so one of the two would be lost.",
            "seed: 1\nseed: 2",
            "seed: 2",
        ),
        "R109": Code(
            "circular `extends`", "A recipe extends itself, directly or through other files. The note shows the chain."
        ),
        "R110": Code(
            "unreadable file",
            "A recipe file is missing, is no regular file, may not be read, or is too large. Paths under `extends` "
            "are relative to the file that names them and end in .yaml or .yml; a shipped recipe is named without.",
            "extends: no-such-file.yaml",
            "seed: 0",
        ),
        "R111": Code(
            "unusable `--set`",
            "`--set` takes `path=value`. The path names keys with dots and list items by number or kind: "
            "`ppo.lr=1e-4`, `rewards.0.weight=2`, `rewards[success].weight=2`. The value is YAML.",
        ),
        "R112": Code(
            "not part of the recipe language",
            "Recipes use plain YAML 1.2: one document of mappings, lists and scalars. Tags, aliases, merge keys and "
            "deep nesting are refused so that a recipe means what it shows. Share values through `extends`.",
            "seed: !!int 1",
            "seed: 1",
        ),
        "R201": Code(
            "minibatches do not fill the rollout",
            "Every step of a rollout is used once an epoch in minibatches of one size, so `ppo.minibatch_size` divides "
            "suite.num_envs × train.rollout.num_steps.",
            "ppo: {minibatch_size: 600}",
            "ppo: {minibatch_size: 512}",
        ),
        "R202": Code(
            "micro batches do not fill the minibatch",
            "Gradients of micro batches accumulate to exactly one minibatch, so `ppo.micro_batch_size` divides "
            "`ppo.minibatch_size`.",
            "ppo: {minibatch_size: 64, micro_batch_size: 24}",
            "ppo: {minibatch_size: 64, micro_batch_size: 16}",
        ),
        "R203": Code(
            "groups are unequal",
            "Groups of slots take turns in simulating and deciding, so they have one size.",
            "suite: {num_envs: 32, num_groups: 3}",
            "suite: {num_envs: 32, num_groups: 4}",
        ),
        "R204": Code(
            "heads do not share the width",
            "Attention heads split the width of the model evenly, and rotary embeddings need an even number "
            "of channels a head.",
            "policy: {hidden_size: 128, num_heads: 3}",
            "policy: {hidden_size: 128, num_heads: 4}",
        ),
        "R205": Code(
            "nothing is trained",
            "The first `train.critic_warmup` iterations train the critic only; at least one iteration "
            "must be left for the policy.",
            "train: {iterations: 5, critic_warmup: 5}",
            "train: {iterations: 10, critic_warmup: 5}",
        ),
        "R206": Code("unknown task", "`suite.tasks` names a task that the suite does not have."),
        "R207": Code(
            "repeated task", "A task is listed twice under `suite.tasks`; use a curriculum to try one task more often."
        ),
        "R208": Code(
            "repeated reward",
            "Each kind of reward appears once, because the breakdown of a run is kept by kind.",
            "rewards: [{kind: success}, {kind: success}]",
            "rewards: [{kind: success, weight: 2.0}]",
        ),
        "R209": Code(
            "warm-up never ends",
            "The learning rate of behaviour cloning rises during the warm-up and decays after it; some updates "
            "must be left.",
            "imitation: {updates: 50, warmup_updates: 50}",
            "imitation: {updates: 50, warmup_updates: 5}",
        ),
        "R210": Code(
            "tasks without a demonstration",
            "When experts are recorded, every task gets at least one episode.",
            "suite: {tasks: null}\nimitation: {num_episodes: 1}",
            "imitation: {num_episodes: 100}",
        ),
        "R211": Code(
            "random start (warning)",
            "Sparse rewards teach nothing before the first success, and a policy with random weights hardly ever "
            "succeeds.",
            "imitation: null",
            "imitation: {}",
        ),
        "R212": Code(
            "temperature without a use (warning)",
            "Greedy decoding takes the likeliest token whatever the temperature.",
            "evaluation: {temperature: 1.5}",
            "evaluation: {temperature: 1.5, decoding: sampled}",
        ),
        "R213": Code(
            "batch never reached (warning)",
            "`run.batches` stores the batch of some iterations, counted from 0; this one comes after the last.",
            "train: {iterations: 10}\nrun: {batches: [10]}",
            "train: {iterations: 10}\nrun: {batches: [9]}",
        ),
        "R214": Code(
            "idle workers (warning)",
            "Each simulator process has slots of every group, so that all of them work on the group that is waited for.",
            "suite: {num_envs: 8, num_workers: 8}\nppo: {minibatch_size: 64}",
            "suite: {num_envs: 8, num_workers: 4}\nppo: {minibatch_size: 64}",
        ),
        "R215": Code(
            "pixels depend on the GPU (warning)",
            "EGL renders on the GPU, and its pixels differ between models and drivers. OSMesa renders on the CPU.",
            "determinism: strict\nsuite: {renderer: egl}",
            "determinism: strict\nsuite: {renderer: osmesa}",
        ),
        "R216": Code(
            "prompt too long",
            "A task's instruction takes more tokens than the policy does. A tiny policy has `policy.max_prompt_length`, "
            "which bounds the size of a batch; the hint has the smallest limit that fits this instruction. OpenVLA takes "
            "what picture and action leave of its checkpoint's `llm_max_length`.",
        ),
        "R217": Code(
            "policy and suite disagree about actions",
            "Both state in words what the seven numbers of an action mean. Where the words differ, a policy would move "
            "the robot by numbers meant otherwise, so the run does not start.",
        ),
        "R218": Code(
            "no such layer to adapt",
            "`targets` names linear layers by the last parts of their names, `q_proj` or `mlp.fc1` for example. The head "
            "over the vocabulary is never adapted, the vision towers only with `vision: true`.",
        ),
        "R219": Code(
            "no such group of weights",
            "`ppo.group_lr` scales the learning rate of groups of the policy's trained weights. Which there are depends on "
            "the policy: `vision` and `language_model`, with OpenVLA `projector` as well.",
        ),
        "R220": Code(
            "not changeable on resume",
            "A resumed run computes what the run would have computed without a stop, and a repetition what the run computed, "
            "so only what changes no number may differ: `name`, `run`, `train.iterations`, `suite.num_workers`, `suite.models_per_worker` and "
            "`suite.renderer`. Not even `train.iterations` with `ppo.lr_decay: linear` or "
            "`train.final_temperature` or a reward's `final_weight`, which are spread over them, and never for `vlarl "
            "reproduce`, which has `--iterations`.",
        ),
        "R221": Code(
            "checkpoint without a commit",
            "A branch of a hub repository can move, so a strict run names the commit: `hf://owner/name@` and the 40 "
            "hexadecimal digits that the repository's history shows.",
            "determinism: strict\nimitation: null\npolicy: {kind: openvla, checkpoint: 'hf://openvla/openvla-7b@main'}",
            "determinism: strict\nimitation: null\npolicy: {kind: openvla, checkpoint: checkpoints/openvla-7b}",
        ),
        "R222": Code(
            "malformed hub reference",
            "A checkpoint on the hub is written `hf://owner/name@commit`; without `hf://` it is a folder on this machine.",
        ),
        "R223": Code(
            "critic without base weights",
            "The critics `frozen` and `adapter` read what the policy's base weights compute without the policy's adapters. "
            "A policy whose weights are all trained has no such weights.",
            "critic: {kind: frozen}",
            "critic: {kind: shared}",
        ),
        "R224": Code(
            "shards do not fit the processes",
            "Each training process runs whole shards of env slots, equally many, so the number of processes divides "
            "`suite.num_shards`. The recipe fixes the shards; how many processes share them changes no result.",
        ),
        "R225": Code(
            "shards are unequal",
            "Shards have equally many env slots and give equally many steps to every minibatch, so `suite.num_shards` "
            "divides `suite.num_envs` and `ppo.minibatch_size`.",
            "suite: {num_envs: 6, num_shards: 4}",
            "suite: {num_envs: 8, num_shards: 4}",
        ),
        "R230": Code(
            "band upside down",
            "The curriculum `success_band` prefers success rates from `low` to `high`; with `low` above `high` there are none.",
            "curriculum: {kind: success_band, low: 0.8, high: 0.2}",
            "curriculum: {kind: success_band, low: 0.2, high: 0.8}",
        ),
        "R231": Code(
            "no way back",
            "The regression guard can only roll back to a checkpoint that is still there: that of the best evaluation.",
            "evaluation: {guard: {action: rollback}}\nrun: {keep: {best: false}}",
            "evaluation: {guard: {action: rollback}}\nrun: {keep: {best: true}}",
        ),
        "R232": Code(
            "group advantage without groups",
            "`ppo.advantage: grpo` and `rloo` compare whole episodes that begin alike, two or more a group, and have no "
            "critic to warm up.",
            "ppo: {advantage: grpo}\ntrain: {critic_warmup: 0}",
            "ppo: {advantage: grpo}\ntrain: {critic_warmup: 0, rollout: {kind: episodes, group_size: 8}}",
        ),
        "R233": Code(
            "groups do not fill the slots",
            "All env slots run episodes until an iteration's groups are done, a group side by side. So `group_size` "
            "divides `suite.num_envs`, the episodes are a multiple of it, and there is one shard.",
            "suite: {num_envs: 32}\ntrain: {rollout: {kind: episodes, group_size: 5}}",
            "suite: {num_envs: 32}\ntrain: {rollout: {kind: episodes, group_size: 4}}",
        ),
        "R237": Code(
            "no distance to the goal in this suite",
            "`dense_oracle` reads the distance to the goal from the simulator. Only `tabletop` tells it.",
            "suite: {kind: libero, name: libero_goal}\nrewards: [{kind: success}, {kind: dense_oracle}]",
            "suite: {kind: tabletop}\nrewards: [{kind: success}, {kind: dense_oracle}]",
        ),
        **OF_INPUTS,
        **OF_RUNS,
        **OF_STUDIES,
    }
)
