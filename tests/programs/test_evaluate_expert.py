"""`vlarl eval --policy expert` where some tasks have no scripted expert."""

from __future__ import annotations

import pytest

from vlarl.errors import UsageError
from vlarl.evaluate import _with_expert
from vlarl.recipe.specs.suites import LiberoSpec
from vlarl.suites.libero.suite import LiberoSuite


def test_tasks_without_an_expert_are_left_out_and_told() -> None:
    suite = LiberoSuite(LiberoSpec(name="libero_10", renderer="osmesa"))
    able = [task.name for task in suite.tasks() if suite.has_expert(task.index)]
    said: list[str] = []
    assert _with_expert(suite, None, said.append) == able
    missing = [task for task in suite.tasks() if task.name not in able]
    assert missing
    assert all(task.name in said[0] for task in missing)
    assert _with_expert(suite, able[:1], said.append) == able[:1]
    assert len(said) == 1
    for name in (missing[0].name, str(missing[0].index)):
        with pytest.raises(UsageError, match=missing[0].name) as caught:
            _with_expert(suite, [name], said.append)
        assert able[0] in str(caught.value.hint)
    with pytest.raises(UsageError, match="no scripted expert"):
        _with_expert(LiberoSuite(LiberoSpec(name="libero_90", tasks=[0, 1], renderer="osmesa")), None, said.append)
