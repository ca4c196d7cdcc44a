"""Provisioning: topics, subscriptions, dead letters and scheduler jobs follow from the registry.

What is desired, less what is observed, is a plan, which people read before `apply` makes exactly that. Never at the start of a service.

    registry, settings ─▶ desired ─┐
                                   ├─▶ planning ─▶ Plan ─▶ rendering (people, programs)
    Google, by REST ───▶ observed ─┘                └────▶ apply ─▶ observed again

Invariant: nothing outside the prefix of one environment and namespace is ever changed, and nothing inside it that says
it belongs to somebody else.
"""
