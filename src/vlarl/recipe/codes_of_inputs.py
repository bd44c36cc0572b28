"""Codes of assets and of command lines; all codes are in ``codes``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vlarl.recipe.code import Code

OF_INPUTS: Mapping[str, Code] = MappingProxyType(
    {
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
            "damaged record of a run",
            "videos.json is no list of videos, or a line of events.jsonl is not a record. A last line that a crash left torn is cut off without a word; this "
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
        "R356": Code(
            "checkpoint of another reward model",
            "The folder that a `process` reward names holds another model than the one that rewarded the run so far. A run is "
            "rewarded by one frozen model from its first step to its last.",
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
        "R366": Code(
            "nothing to repeat, or no chain to compare with",
            "The folder named to `vlarl reproduce` holds no resolved recipe or no whole hash chain: it did no iteration, "
            "lost files, or is neither a run folder nor one that tools/publish_run.py wrote.",
        ),
        "R367": Code(
            "what a stage begins with was not kept",
            "Repeating one stage alone needs the run's recorded episodes, stored batch or checkpoint of that iteration.",
        ),
        "R368": Code(
            "a run's record contradicts itself",
            "Every link of a run's hash chain follows from the one before and the digests beside it, the first from "
            "manifest.json, and recorded actions have the digest that the chain has of them. Here one does not, so a file "
            "was changed or damaged after the run, and nothing can be compared with it.",
        ),
        "R369": Code(
            "nothing to compare",
            "`vlarl report RUN RUN` compares the last evaluations of runs, and one of them has none yet.",
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
        "R377": Code(
            "another base checkpoint",
            "The files at `policy.checkpoint` are not those the run started from, so what it trained does not fit them; or "
            "those that the adapters of a reward model belong to have changed. Where these are is in its base.json.",
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
            "and two normalisations of three channels; or, for a reward model, has patches of another size than the network.",
        ),
        "R383": Code(
            "unusable tokenizer",
            "The checkpoint has no `tokenizer.json`, or one that does not fit the model: BOS is token 1, and the lone `▁` "
            "that stands before the action is token 29871 where the vocabulary is Llama's. A reward model needs its family's "
            "special tokens, and two answers that are one token each (`prm.positive_answer`, `prm.negative_answer`).",
        ),
        "R390": Code(
            "no successful trajectory",
            "`vlarl label-segments` learns from successes what leads to one. The files hold failures only, or the run kept no "
            "finished episode.",
        ),
        "R391": Code(
            "no channel to cut by",
            "Trajectories are cut by the opening of the gripper (`obs/gripper_states`) and the place of the end effector "
            "(`obs/ee_pos` or `obs/ee_states`). One of them is missing or holds something that is not a number.",
        ),
        "R392": Code(
            "constant gripper",
            "The opening of the gripper never changes by `labels.min_gripper_range`, so there is nothing to cut at. Where that is "
            "as it should be, in pushing or reaching, `labels.constant_gripper: one_segment` takes such a trajectory as a whole.",
        ),
        "R393": Code(
            "trajectory too short",
            "An episode of one step has no speed and leads nowhere.",
        ),
        "R394": Code(
            "labels of one class",
            "Every labelled step would be positive, or every one negative, and a model would learn to say that. Negatives "
            "need steps far from keyframes, failures or a second task.",
        ),
        "R395": Code(
            "not a process reward model",
            "The folder was not written by `vlarl train-prm`, is not finished, or holds a model that cannot answer a question "
            "about a picture. `prm.checkpoint` takes image-text models of the Qwen-VL family with their head.",
        ),
        "R396": Code(
            "another camera or action space",
            "A reward model judges pictures of the camera it was trained on, at their size, of a robot whose actions mean the "
            "same. The files or the suite have others.",
        ),
        "R397": Code(
            "folder exists",
            "`vlarl label-segments` and `vlarl train-prm` make a new folder and never add to or replace one that exists.",
        ),
        "R398": Code(
            "damaged labels or reward model",
            "A file is missing, cut short, differs from its recorded digest, or is of another version.",
        ),
        "R399": Code(
            "too few trajectories",
            "A reward model is judged by trajectories it was not trained on, whole ones, of every task; a task with one "
            "success has none to spare.",
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
            "What belongs to no run needs `--out`: a checkpoint's evaluation, a baseline's shards and videos. A shard has none.",
        ),
        "U217": Code(
            "nothing to set",
            "`eval --set` is for checkpoints in Hugging Face layout and takes values of `policy` and `suite`; a run has a recipe.",
        ),
        "U270": Code(
            "nothing to repeat",
            "`vlarl reproduce` repeats iterations that the run did, on one process, from a checkpoint the run still has; "
            "`--stage update` repeats those whose batch was stored.",
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
        "U250": Code(
            "nothing to export",
            "`vlarl export` writes policies of kind `openvla`, with `--format peft` those that were trained through adapters.",
        ),
        "U260": Code(
            "nothing to label",
            "`vlarl label-segments` takes a recipe with `imitation`, demonstrations with `--demos`, or a run with `--run`.",
        ),
        "U280": Code(
            "no such report",
            "`vlarl report` takes one run, the folder of one study, or several runs to compare. The ending of `--out` says "
            "what it writes: .html, .md or .csv.",
        ),
    }
)
