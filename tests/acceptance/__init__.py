"""Real processes over HTTP. What compares for several files says what differs, as the tests themselves do."""

import pytest

pytest.register_assert_rewrite("tests.acceptance.delivery.playing")
