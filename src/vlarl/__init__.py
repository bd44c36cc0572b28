"""vlarl: online reinforcement learning for vision-language-action policies, from one validated recipe."""

import os

__version__ = "0.1.0"

# How long an OpenMP thread spins before it sleeps. For ever (the default) steals the cores of the simulator
# processes: on two busy cores an iteration took eight times as long. Not at all wakes a thread for each operator:
# an update of the tiny policy took 1.4 times as long. Half a millisecond is neither. Read when torch loads its
# OpenMP; changes speed only, never a number.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
