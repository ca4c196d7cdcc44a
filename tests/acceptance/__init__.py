"""Real processes over HTTP, a folder for each capability."""

import pytest

pytest.register_assert_rewrite("tests.acceptance.delivery.playing")
