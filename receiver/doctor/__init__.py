"""The doctor: what would fail in production, why that matters, and the command that mends it.

Looking and judging are apart. `sights`, `record` and `cloud` fetch, each part within a time limit, all at the same time, and
whatever cannot be reached is said and costs nothing else. The rooms named after what they judge (`environment`, `tasks`,
`database`, `resources`, `service`) are pure: values in, findings out.

    environ ─▶ environment ─┐
    plugins ─▶ tasks        ├─▶ examination ─▶ Report ─▶ rendering (people, programs)
    PostgreSQL, Google ─────┘

Invariant: nothing is changed anywhere, and no finding shows a password, a token or what a task was given.
"""
