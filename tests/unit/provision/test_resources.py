"""Policies: one more member, and everything else as it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from receiver.provision.resources import Grant

ROLE, MEMBER = "roles/pubsub.publisher", "serviceAccount:a@b"
GRANT = Grant("projects/p/topics/t", ROLE, MEMBER)
CONDITION = {"title": "for now", "expression": "true"}

bindings = st.fixed_dictionaries(
    {
        "role": st.sampled_from([ROLE, "roles/pubsub.viewer"]),
        "members": st.lists(st.sampled_from([MEMBER, "user:c@d", "user:e@f"]), unique=True),
    },
    optional={"condition": st.just(CONDITION)},
)
policies = st.fixed_dictionaries(
    {"etag": st.text(max_size=4), "version": st.sampled_from([1, 3])},
    optional={"bindings": st.lists(bindings, max_size=5)},
)


@given(policies)
def test_a_member_is_added_without_a_condition_and_nobody_loses_anything(policy: dict[str, object]) -> None:
    made = GRANT.added_to(policy)
    assert made["etag"] == policy["etag"]
    held = pairs(policy)
    assert pairs(made) == held | {(ROLE, MEMBER, False)}
    assert GRANT.added_to(made) == made


def pairs(policy: dict[str, object]) -> set[tuple[str, str, bool]]:
    found = policy.get("bindings", [])
    assert isinstance(found, list)
    return {(one["role"], member, "condition" in one) for one in found for member in one["members"]}
