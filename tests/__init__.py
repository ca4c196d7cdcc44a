"""The tests. Assertions of `tests.stage` are explained like those of tests; that has to be said before it is imported."""

import pytest

pytest.register_assert_rewrite("tests.stage")
