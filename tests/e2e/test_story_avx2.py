"""The demo's story as on a processor with AVX2 only. A file of its own, so that another process may run it."""

import pytest

from tests import avx2
from tests.e2e.stack import empty_stack, tell_the_story


def test_the_story_of_three_drops_with_avx2_only(tmp_path_factory: pytest.TempPathFactory) -> None:
    with empty_stack(tmp_path_factory.mktemp("stack"), avx2.VARIABLES) as stack:
        tell_the_story(stack)
