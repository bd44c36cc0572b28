"""vlarl: online reinforcement learning for vision-language-action policies, from one validated recipe."""

__version__ = "0.1.0"
