"""The doctor: what would fail in production, why it matters, and the command that mends it.

`record_look` and `google_look` fetch; `examination` runs them side by side, each within a time limit. A part that cannot be
seen is reported as unseen, and the others are still looked at. The rooms `*_rules` judge: what was seen goes in, findings
come out.

    environ, plugins ───────────▶ setting_rules, task_rules ─────────────────┐
    PostgreSQL ──▶ record_look ─▶ record_rules ──────────────────────────────┼─▶ Diagnosis (people, programs)
    Google ──────▶ google_look ─▶ resource_rules, service_rules, task_rules ─┘

Invariant: nothing is changed anywhere, and no finding shows a password, a token or the arguments of a task.
"""
