"""Messages between trainer and simulator processes come back as they were sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarl import errors
from vlarl.recipe.specs.suites import LiberoSpec, TabletopSpec
from vlarl.suites.messages import Assignment, decode_assignment, decode_error, encode_assignment, encode_error
from vlarl.suites.shared import Sizes

_WORDS = st.none() | st.text(max_size=20)


@pytest.mark.parametrize("spec", [TabletopSpec(tasks=["lift_red"]), LiberoSpec(name="libero_10", tasks=[3])])
def test_an_assignment_comes_back(spec: TabletopSpec | LiberoSpec) -> None:
    sent = Assignment(number=1, parent=77, sizes=Sizes(4, 2, 64, 40), slots=((0, 1), (2,)), spec=spec)
    assert decode_assignment(encode_assignment(sent)) == sent


@given(
    st.sampled_from([errors.RunError, errors.DriftError, errors.EnvironmentUnusable, errors.RecipeError]),
    st.text(),
    _WORDS,
    _WORDS,
)
def test_an_error_comes_back_with_its_kind_and_fields(
    kind: type[errors.VlarlError], message: str, place: str | None, hint: str | None
) -> None:
    sent = kind(message, code="X530", place=place, hint=hint)
    received = decode_error(encode_error(sent))
    assert type(received) is kind
    assert vars(received) == vars(sent)
    assert received.exit_status == sent.exit_status
