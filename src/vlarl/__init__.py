"""vlarl: online reinforcement learning for vision-language-action policies, from one validated recipe."""

import os

__version__ = "0.1.0"

# OpenMP threads that spin while they wait steal the cores of the simulator processes: on two busy cores an
# iteration took eight times as long. Read when torch loads its OpenMP; changes speed only, never a number.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
