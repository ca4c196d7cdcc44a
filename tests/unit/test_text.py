"""Small rules for text that several rooms share."""

from __future__ import annotations

from itertools import permutations

from receiver.text import by_length


def test_names_of_one_length_have_one_order() -> None:
    """Those of a task are a set, whose own order differs between processes: clashes and rejected messages named now one, now another."""
    for names in permutations(["bb", "aa", "c"]):
        assert sorted(names, key=by_length) == ["c", "aa", "bb"]
        assert min(names, key=by_length) == "c"
