"""Whether a sender has chosen values so that many of them have the same hash.

Python's hashes of numbers, and of what is made of them (UUID, Decimal, tuples), are no secret. A set compares each new member with
all others of the same hash, and no other code of the process runs meanwhile: 8 000 such UUIDs, 300 KB, took 8 s, and twice as many
take four times as long. Text has a secret hash: objects of JSON and sets of text are safe.

Next: `receiver.contract.convert` asks before it makes a set, or a mapping whose keys are no text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from uuid import UUID

import msgspec

MOST: Final = 32
"""Different members of one list that may have one hash. Ordinary ones are few: 1.0 and 2.0 ** 61, or the texts 1.0 and 1.00."""

LONGEST_TUPLE: Final = 16
"""A list inside a list may become a tuple in a set. A list of more members than this is not looked at as one if it has lists itself:
its members would be looked at again at each level."""


def collide(value: Any) -> bool:
    """Whether, in some list of a JSON value or among the keys of an object, values that differ have the same hash."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if type(each) is dict:
            members: list[Any] = list(each)
            waiting += each.values()
        elif type(each) is list:
            members = each
            waiting += each
        else:
            continue
        if len(members) > MOST and any(_are_alike(members, read) for read in (UUID, Decimal)):
            return True
    return False


def _are_alike(members: Sequence[Any], read: Callable[[str], Any]) -> bool:
    if len(members) - len({_hash(each, read) for each in members}) < MOST:
        return False
    different = {msgspec.json.encode(each): each for each in members}  # the same value may come often
    return max(Counter(_hash(each, read) for each in different.values()).values()) > MOST


def _hash(member: Any, read: Callable[[str], Any]) -> int:
    """The hash of what becomes of a JSON value. `read`: what its texts may become."""
    if type(member) is str:
        try:
            return hash(read(member))
        except (ValueError, TypeError, InvalidOperation):  # TypeError: the hash of sNaN
            return hash(member)
    if type(member) is list and (
        len(member) <= LONGEST_TUPLE or not any(type(each) in (list, dict) for each in member)
    ):
        return hash(tuple([_hash(each, read) for each in member]))
    return id(member) if type(member) in (list, dict) else hash(member)
