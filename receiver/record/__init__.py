"""The record: one row an execution, one row an attempt that did not succeed, and who may change them.

schema         the tables, and the CHECKs that tie status, finality, times and lease together
statements     every statement that changes an execution, each with its guard in its WHERE
lanes          the ledger's own connections, never lent to tasks
group_commit   the claims (or settlements) of concurrent requests, written by one statement
ledger         claim and settle, and what happens when an answer is lost
heartbeat      renews what this instance runs, from a thread of its own
task_pool      the connections that tasks may borrow
transaction    the task's transaction: commits with SUCCESSFUL or not at all
rejections     messages that could not become an execution
history        from, to, at, why: derived from the two tables
queries        what operators read
"""
