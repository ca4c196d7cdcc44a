"""Every statement that changes the record, and what a claim or a settlement reads.

Each change is a transition, with its guard in its WHERE (docs/reference/transitions.md lists them).

The owner of an execution knows its fence; a statement with another fence changes nothing. A function here returns what
moved. Statements over several rows take arrays, lock their rows in `task_id` order before they change any, and are one
round trip and one transaction. They lock FOR NO KEY UPDATE, which a foreign key of the application's does not wait for.
All times are `clock_timestamp()`: `now()` stands still in the task's transaction.

Next: `receiver.record.ledger` decides which of them to call, and what a lost answer means.
"""
