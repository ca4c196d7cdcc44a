"""The record: one row for each execution, one for each attempt that did not succeed, one for each rejected message.

The happy path of a delivery is two statements: a claim and a settlement. `ledger` calls them; `sql` holds them.

schema             the tables, and the CHECKs that tie status, finality, times and lease together
sql                every statement that changes a row, each with its guard in its WHERE
database           DATABASE_URL, and how a connection or an engine is made
connections        the record's own connections, never lent to tasks
group_commit       the claims (or settlements) of concurrent requests, written by one statement
ledger             claim and settle, and what is true when an answer is lost
settler            repeats a settlement until it is written
lost_claims        hands back a claim that committed although its answer was lost
heartbeat          renews the leases of this instance, from a thread of its own
task_pool          the connections that tasks may borrow
task_transaction   the task's transaction: commits with SUCCESSFUL or not at all
rejections         messages that could not become an execution
migrations         the version of the tables, row level security, invalid indexes
"""
