"""Stand-ins for the programs that containers and jobs are started with."""

from __future__ import annotations

from pathlib import Path

import pytest
from host import DIGEST, Host

# Two tasks at a time, as Slurm's own starts them: it passes USR1 on to both and kills them at TERM; its status is the
# highest.
_SRUN = r"""
while [[ $1 == --* ]]; do shift; done
trap 'kill -USR1 "${tasks[@]}"' USR1
trap 'kill -KILL "${tasks[@]}"' TERM
for task in 0 1; do
    SLURM_PROCID=$task SLURM_NTASKS=2 SLURM_LOCALID=$((1 - task)) "$@" &
    tasks[task]=$!
done
worst=0
for task in "${tasks[@]}"; do
    while :; do
        wait "$task"
        status=$?
        kill -0 "$task" 2>/dev/null || break
    done
    ((status > worst)) && worst=$status
done
exit "$worst"
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    host.program(
        "docker",
        f'if [ "$1 $2" = "image inspect" ]; then [ "${{@: -1}}" != absent ] && echo {DIGEST}; exit; fi\n'
        f"printf '%s\\0' \"$@\" >{host.said}; exit 75",
    )
    host.program(
        "apptainer", f"{{ printf '%s\\0' \"$@\"; env -0 | grep -z ^APPTAINERENV_ | sort -z; }} >{host.said}; exit 75"
    )
    return host


@pytest.fixture
def cluster(host: Host) -> Host:
    """The stand-ins of a cluster: `scontrol` knows the nodes and the job's state, and notes what it is told to do."""
    names = 'if [ "$1 $2" = "show hostnames" ]; then echo node1; echo node2; exit; fi\n'
    state = 'if [ "$1 $2" = "show job" ]; then echo "   JobState=${STATE:-RUNNING Reason=None} Dependency="; exit; fi\n'
    host.program("scontrol", f"{names}{state}printf '%s\\0' \"$@\" >{host.said}")
    host.program("srun", _SRUN)
    return host
