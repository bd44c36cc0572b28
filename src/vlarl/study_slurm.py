"""A study as a Slurm array: a task a run, each queued again until it is done."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

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
#SBATCH --mem=16G
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

"${{launch[@]}}" {words} --task "$SLURM_ARRAY_TASK_ID" --display plain &
child=$!

# The study passes TERM on to its run, which finishes its iteration, writes a checkpoint and leaves with status 75.
trap 'signalled=1; kill -TERM "$child" 2>/dev/null' TERM USR1
while :; do
    signalled=
    wait "$child"
    status=$?
    [ -n "$signalled" ] || break
done

if [ "$status" -eq 75 ]; then
    echo "stopped at a checkpoint; task $SLURM_ARRAY_TASK_ID goes back into the queue"
    # Not by SLURM_JOB_ID: the last task's is that of the whole array, and all of it would start anew.
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" || exit 75
    exit 0
fi
exit "$status"
"""


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
) -> str:
    """The script; ``study`` is the study as it was named on the command line."""
    cells = [word for cell in only for word in ("--only", cell)]
    earlier = [] if collected is None else ["--collected", str(collected)]
    words = shlex.join(["study", study, "--out", str(out), "--cache", str(cache), *cells, *earlier])
    return _TEMPLATE.format(name=name, num_tasks=num_tasks, last=num_tasks - 1, num_cpus=num_cpus, words=words)
