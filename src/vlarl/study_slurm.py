"""A study as a Slurm array: a task a run, each queued again until it is done."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from vlarl.recipe.schema import Recipe
from vlarl.run.instructions import Instructions, chosen

_TEMPLATE = """\
#!/usr/bin/env bash
# {num_tasks} runs of the study {name}: submit it with `sbatch` from the folder in which `vlarl study` is typed.
# `vlarl {words} --list` says which run is which task, and how far each is.

# Resources of one run: this part is the site's.
#SBATCH --job-name=vlarl-{name}
#SBATCH --array=0-{last}
#SBATCH --nodes=1
#SBATCH --ntasks=1
# One core for each simulator process (`suite.num_workers`) and one for the policy.
#SBATCH --cpus-per-task={num_cpus}
# What `vlarl plan RECIPE` says of the host's memory, and a tenth more; `sbatch --mem=64G SCRIPT` overrules it.
#SBATCH --mem=16G
{card}
#SBATCH --time=12:00:00

# A task that was stopped goes back into the queue and goes on from its checkpoint.
#SBATCH --requeue
# So many seconds before the time limit: more than one iteration, one evaluation and one checkpoint take.
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#SBATCH --output=slurm-{name}-%a.log

set -uo pipefail

# With an image (a .sif file) a run takes place in it, else in the environment that `vlarl` comes from.
if [ -n "${{VLARL_IMAGE:-}}" ]; then
    launch=("${{VLARL_WRAPPER:-$SLURM_SUBMIT_DIR/containers/apptainer-run.sh}}")
    if [ -n "${{CUDA_VISIBLE_DEVICES:-}}" ]; then export VLARL_GPUS="${{VLARL_GPUS:-all}}"; fi
else
    launch=(vlarl)
fi

# The study passes TERM on to its run, which finishes its iteration, writes a checkpoint and leaves with status 75. Set
# before anything starts, since Slurm's signal would otherwise end this script.
child= told=
pass_on() {{
    signalled=1 told=1
    if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null; fi
}}
trap pass_on TERM USR1

"${{launch[@]}}" {words} --task "$SLURM_ARRAY_TASK_ID" --display plain &
child=$!
if [ -n "$told" ]; then kill -TERM "$child" 2>/dev/null; fi
while :; do
    signalled=
    wait "$child"
    status=$?
    [ -n "$signalled" ] || break
done
# Told before it listened, it ends by the signal itself; the next start goes on all the same.
if [ -n "$told" ] && [ "$status" -eq 143 ]; then status=75; fi

if [ "$status" -eq 75 ]; then
    # Not by SLURM_JOB_ID: the last task's is that of the whole array, and all of it would start anew.
    task="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
    # Whoever cancels a task means it to end; one that is preempted Slurm queues again by itself.
    case $(scontrol show job "$task" 2>/dev/null) in
    *"JobState=COMPLETING Reason=None"*)
        echo "stopped at a checkpoint and not queued again, since the task was cancelled"
        exit 75
        ;;
    esac
    # A task whose time limit is shorter than one iteration would come back for ever.
    most=${{VLARL_MAX_RESTARTS:-50}}
    if [ "${{SLURM_RESTART_COUNT:-0}}" -ge "$most" ]; then
        echo "stopped, and not queued again: restarted $SLURM_RESTART_COUNT times, at most $most" \\
            "(VLARL_MAX_RESTARTS). If there are no new iterations, raise --time and the seconds in --signal;" \\
            "then submit it again." >&2
        exit 75
    fi
    echo "stopped at a checkpoint; task $SLURM_ARRAY_TASK_ID goes back into the queue"
    scontrol requeue "$task" || exit 75
    exit 0
fi
exit "$status"
"""


_CARD = {
    True: "# The card that `vlarl plan RECIPE --gpu 80GB` fits on.\n#SBATCH --gres=gpu:1",
    False: "# For a card, take out one of the #; no run of this study asks for one.\n##SBATCH --gres=gpu:1",
}


def wants_gpu(recipe: Recipe) -> bool:
    """Whether a run of it is meant for a GPU: told so, or with a policy that is large and takes one where it can."""
    policy, models = recipe.policy, (recipe.policy, *recipe.rewards)
    large = str(getattr(policy, "kind", "")).startswith("openvla") and getattr(policy, "device", "auto") != "cpu"
    return large or any(getattr(each, "device", None) == "cuda" for each in models)


def slurm_script(
    *,
    study: str,
    name: str,
    num_tasks: int,
    num_cpus: int,
    out: Path,
    cache: Path,
    only: Sequence[str],
    collected: Path | None = None,
    gpu: bool = False,
) -> str:
    """The script; ``study`` is the study as it was named on the command line, ``gpu`` says that runs want a card."""
    cells = [word for cell in only for word in ("--only", cell)]
    earlier = [] if collected is None else ["--collected", str(collected)]
    kernels = [] if chosen() is Instructions.native else ["--instructions", chosen().value]
    words = shlex.join([*kernels, "study", study, "--out", str(out), "--cache", str(cache), *cells, *earlier])
    return _TEMPLATE.format(
        name=name, num_tasks=num_tasks, last=num_tasks - 1, num_cpus=num_cpus, words=words, card=_CARD[gpu]
    )
