"""What each code of a recipe's diagnostics means, for `vlarl explain CODE` and the docs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vlarl.recipe.codes_of_runs import OF_RUNS, Code

__all__ = ["CODES", "Code"]


CODES: Mapping[str, Code] = MappingProxyType(
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
            "A recipe file is missing, is a folder, may not be read, or is too large. Paths under `extends` "
            "are relative to the file that names them.",
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
            "Each simulator process owns whole env slots.",
            "suite: {num_envs: 8, num_workers: 16}\nppo: {minibatch_size: 64}",
            "suite: {num_envs: 8, num_workers: 8}\nppo: {minibatch_size: 64}",
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
            "A resumed run computes what the run would have computed without a stop, so only what changes no number may "
            "differ: `name`, `run`, `train.iterations`, `suite.num_workers`, `suite.models_per_worker` and "
            "`suite.renderer`. Not even `train.iterations` with `ppo.lr_decay: linear` or "
            "`train.final_temperature`, which are spread over them.",
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
        "R300": Code(
            "unusable asset",
            "A checkpoint, demonstration file or reward model that the recipe names is missing, damaged, or "
            "made for another policy or action space.",
        ),
        "R301": Code(
            "no such run",
            "There is no run of that name, neither as a path nor in the folder of runs (`--runs`, else `runs`). "
            "`last` is the newest one.",
        ),
        "R302": Code(
            "not a run folder",
            "The folder has no manifest.json, which every run writes before its first step.",
        ),
        "R310": Code(
            "no demonstrations",
            "`imitation.demonstrations` names a path that does not exist, or a folder without .hdf5 files. "
            "`vlarl collect` records some.",
        ),
        "R311": Code(
            "unreadable demonstrations",
            "The file is not HDF5 in LIBERO's layout, was cut short, or holds arrays whose lengths do not fit one another.",
        ),
        "R312": Code(
            "demonstrations of another image size",
            "The policy is built for the size that `suite.image_size` renders. Larger demonstrations are made smaller, with "
            "a warning; smaller ones are not blown up, because they would look unlike what the suite renders and cost "
            "what large images cost.",
        ),
        "R313": Code("empty demonstrations", "The demonstration files are readable and hold no episode."),
        "R314": Code(
            "demonstrations exist",
            "`vlarl collect` makes a new folder and never adds to or replaces one that exists.",
        ),
        "R315": Code(
            "damaged warm start in the cache",
            "Weights of an earlier behaviour cloning in `run.cache` differ from their recorded digest or cannot be read. "
            "The folder can be deleted: the next run clones again and gets the same weights.",
        ),
        "R316": Code(
            "demonstrations of another robot or action space",
            "Actions of another robot or controller mean something else, so cloning them would teach nonsense. vlarl reads "
            "what LIBERO has: one Panda under OSC_POSE with deltas, 7 numbers an action.",
        ),
        "R317": Code(
            "demonstrations of another suite",
            "The demonstrations come from another suite than the recipe's or the one asked for, or do not say from which task.",
        ),
        "R318": Code("unreadable init states", "The official init states of a LIBERO task are missing or damaged."),
        "R320": Code(
            "damaged event file",
            "A line of events.jsonl is not a record. A last line that a crash left torn is cut off without a word; this "
            "one lies before it, so something other than vlarl changed the file.",
        ),
        "R330": Code("unreadable manifest", "The run's manifest.json is missing, is not JSON or lacks its version."),
        "R331": Code(
            "manifest of another version",
            "The run was recorded by a vlarl with another manifest format; `schema_version` in manifest.json says which.",
        ),
        "R340": Code(
            "episode not kept",
            "No finished episode of training has that slot and number, or the arrays of an iteration it spans are gone; "
            "`run.episodes: false` keeps none.",
        ),
        "R350": Code(
            "no checkpoint",
            "The folder holds none: the run stopped during its warm start, after which the first checkpoint is written.",
        ),
        "R351": Code(
            "damaged checkpoint",
            "A file of the checkpoint is missing, cut short or differs from its recorded digest. Naming the run instead "
            "of one checkpoint uses the newest whole one and says which were passed over.",
        ),
        "R352": Code("no usable checkpoint", "Every checkpoint of the run is damaged; the message says why for each."),
        "R353": Code(
            "checkpoint of another policy",
            "The checkpoint's policy has other sizes or another action space than the one asked for.",
        ),
        "R354": Code(
            "checkpoint of another version",
            "The checkpoint was written by a vlarl with another checkpoint format or another recipe language.",
        ),
        "R355": Code(
            "checkpoint of another critic",
            "The checkpoint's critic has another kind or other sizes than the recipe's, so its weights do not fit.",
        ),
        "R360": Code(
            "unusable evaluation",
            "A file of an evaluation is missing or damaged, does not fit the other two, or tells of a suite that is not "
            "installed.",
        ),
        "R361": Code(
            "evaluations cannot be compared",
            "Two evaluations are compared episode by episode, which needs the same suite, tasks, init states, "
            "conventions and renderer in both.",
        ),
        "R362": Code(
            "actions mean something else",
            "The suite to evaluate on gives actions another meaning than the suite that the policy was trained on.",
        ),
        "R363": Code(
            "no run to evaluate",
            "Without `--checkpoint`, `vlarl eval` takes the newest run in the folder of runs that was trained on the "
            "suite and has a checkpoint. There is none.",
        ),
        "R364": Code(
            "no such evaluated episode",
            "The run has no evaluation yet, or its evaluation does not hold that task or init state.",
        ),
        "R365": Code(
            "shards do not fit together",
            "`vlarl merge` takes every shard of one evaluation once: the same policy, settings and protocol in all, none "
            "missing, none twice.",
        ),
        "R370": Code(
            "incomplete model folder",
            "A model's folder has config.json and either model.safetensors or shards with "
            "model.safetensors.index.json, as the hub serves them.",
        ),
        "R371": Code(
            "pickled weights",
            "The folder has weights only as .bin or .pt, which are pickles: opening one runs whatever code it holds. "
            "vlarl reads safetensors.",
        ),
        "R372": Code(
            "damaged model file",
            "A file of the model was cut short, is missing from the shards that the index names, or is not what its name "
            "says. Usually a download or a copy was interrupted.",
        ),
        "R373": Code(
            "not an OpenVLA checkpoint",
            "The tensors or config.json do not describe OpenVLA: DINOv2 and SigLIP towers of one grid, a projector of three "
            "layers, and Llama with plain rotary embeddings. `policy.vision_heads` is the one size to be stated: shapes do "
            "not tell it.",
        ),
        "R374": Code(
            "weights of another precision",
            "Weights are read as float32, float16 or bfloat16. Quantised ones cannot be trained on or exported unchanged.",
        ),
        "R375": Code(
            "export exists",
            "An export makes a new folder and never adds to or replaces one that exists.",
        ),
        "R376": Code(
            "checkpoint not to be had from the hub",
            "The repository or commit does not exist, needs a login or consent, or the hub cannot be reached and the cache "
            "does not have all of it. HF_ENDPOINT names another hub, HF_HUB_OFFLINE=1 uses the cache alone.",
        ),
        "R380": Code(
            "no statistics for the suite",
            "An OpenVLA checkpoint's tokens mean numbers between -1 and 1; its `norm_stats` say for each data set what "
            "these were in the data. There are none under `policy.statistics`, or, without that, under the suite's name "
            "alone or with `_no_noops`. The message lists those there are.",
        ),
        "R381": Code(
            "unusable statistics",
            "The action statistics of the checkpoint cannot be read, or are not seven finite numbers each with q01 at most "
            "q99, and, where there is a mask, seven of true and false.",
        ),
        "R382": Code(
            "unusable image processor",
            "`preprocessor_config.json` of the checkpoint cannot be read, or asks for something else than a bicubic resize "
            "and two normalisations of three channels.",
        ),
        "R383": Code(
            "unusable tokenizer",
            "The checkpoint has no `tokenizer.json`, or one that does not fit the model: BOS is token 1, and the lone `▁` "
            "that stands before the action is token 29871 where the vocabulary is Llama's.",
        ),
        "U200": Code(
            "wrong command line",
            "A command got options or arguments it cannot use; `vlarl COMMAND --help` lists them.",
        ),
        "U201": Code("file exists", "`vlarl init` does not write over a file unless `--force` says so."),
        "U202": Code("unknown name", "A suite, recipe, list, field or code of that name does not exist."),
        "U210": Code(
            "two policies at once",
            "`--policy expert` and `--policy random` use no weights, so they take no `--checkpoint`.",
        ),
        "U211": Code(
            "temperature without a use",
            "Greedy decoding takes the likeliest token whatever the temperature, and sampling needs one above 0.",
        ),
        "U212": Code("unknown task", "`--tasks` names a task that the suite does not have."),
        "U213": Code(
            "impossible number of episodes",
            "An evaluation runs at least one episode a task and at most one for each held-out init state of the suite.",
        ),
        "U214": Code(
            "not an episode",
            "`vlarl replay` takes TASK:INIT, the name of a task and the number of a held-out init state.",
        ),
        "U215": Code(
            "not a shard",
            "`--shard` takes NUMBER/OF, as in `2/4`: shards are counted from 1, and each has an episode at least.",
        ),
        "U216": Code(
            "nowhere to write, or not the whole",
            "Shards and videos of the expert or of random actions need `--out`; videos are of whole evaluations.",
        ),
        "U230": Code("no expert", "There is no scripted expert for this task; the hint lists those that have one."),
        "U240": Code(
            "not a machine",
            "`vlarl plan` takes `--gpu` as a size of memory, such as `80GB`, and `--num-gpus` as a number above 0; without "
            "`--gpu` it plans for the GPUs that nvidia-smi lists.",
        ),
        "U241": Code(
            "unknown sizes",
            "`vlarl plan` computes from sizes and knows those of the built-in policies only.",
        ),
        **OF_RUNS,
    }
)
