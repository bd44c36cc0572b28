"""MuJoCo reads its GL backend when it is imported, and some tests import it before they build a suite."""

from vlarl.suites.renderer import choose_renderer

choose_renderer("osmesa")
