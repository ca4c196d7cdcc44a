"""Provisioning: topics, subscriptions, dead letters and scheduler jobs follow from the registry.

The plan is the difference between what is desired and what is observed. People read it before `apply` makes exactly its changes.
A service never provisions when it starts.

    registry, settings ─▶ desired ─┐
                                   ├─▶ planning ─▶ Plan ─▶ rendering (people, programs)
    Google, by REST ───▶ observed ─┘                └────▶ apply ─▶ observed again

Invariant: nothing outside the prefix of one environment and namespace is ever changed, and nothing inside it that names
another owner.
"""
