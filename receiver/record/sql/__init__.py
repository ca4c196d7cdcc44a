"""Every statement that changes an execution: each is a transition, with its guard in its WHERE.

Whoever owns an execution knows its fence; whoever does not changes nothing. A function here returns what moved.
Statements over several rows take arrays, lock their rows in `task_id` order before they change any, and are one
round trip and one transaction. They lock FOR NO KEY UPDATE, which a foreign key of the application's that refers to
the row does not hold up. All times are `clock_timestamp()`: `now()` would stand still in the task's transaction.

Next: `receiver.record.ledger` decides which of them to call, and what a lost answer means.
"""
