"""Every error this project raises on purpose, and what each asks of whoever meets it.

    ReceiverError
    ├── ConfigurationError        start is refused; the message is one line for the operator
    │   ├── SettingError          an environment variable
    │   ├── PluginError           a plugin module, its list of routes, or TASKS_SETUP
    │   └── SchemaError           the database's tables are older than this code
    ├── DeclarationError          a @task or TaskRoute that Pub/Sub or Scheduler would refuse (a ValueError)
    ├── PermanentError            raised by a task: do not try again
    ├── TransactionError          a task ended or bypassed its own transaction
    ├── Refusal                   a delivery ended before anything was claimed
    │   ├── Forbidden             403: not a push of ours
    │   ├── TooLarge              400: over the cap, never read to its end
    │   ├── Rejected              400: malformed, unknown, or not fitting
    │   └── Saturated             429: no room on this instance now
    ├── ItemRefused               the database refuses the values of one item
    ├── DatabaseUnavailable       the record cannot be reached, or its answer is not known
    │   └── OutOfConnections      ... because every connection is in use: back off
    └── OutputLost                a command cannot print: a full disk, a file that is too large (an OSError)
        └── PipeClosed            ... because whoever read it has gone: end, and say nothing

Expected endings of a *task* are values (`receiver.outcomes`), not exceptions.
"""

from __future__ import annotations

from enum import StrEnum


class ReceiverError(Exception):
    """Base of all errors raised on purpose."""


class ConfigurationError(ReceiverError):
    """The service cannot start like this; the message says what to change."""


class SettingError(ConfigurationError):
    """An environment variable has a value that is not allowed.

    Args:
        variable: its name.
        value: the value as it may be shown (already redacted), or None when it is not set.
        allowed: what would be accepted, as the end of a sentence.
    """

    def __init__(self, variable: str, value: str | None, allowed: str) -> None:
        self.variable = variable
        self.value = value
        self.allowed = allowed
        found = "is not set" if value is None else f"is {value!r}"
        super().__init__(f"{variable} {found}; {allowed}")


class PluginError(ConfigurationError):
    """A plugin could not be loaded; the message names the module and the place in it."""


class SchemaError(ConfigurationError):
    """The database's tables are missing or older than this code: run `receiver migrate`."""


class DeclarationError(ReceiverError, ValueError):
    """A task or route is declared with something that Pub/Sub or Cloud Scheduler would refuse."""


class PermanentError(ReceiverError):
    """Raise this in a task when a retry cannot help: the execution becomes FAILED and final, the message is acked."""


class TransactionError(ReceiverError):
    """The task's transaction is ended by the receiver, together with the record; the task must not end it."""


class Refusal(ReceiverError):
    """A delivery that ended before anything was claimed."""


class Forbidden(Refusal):
    """The push carries no token of ours. `reason` is for the log; the caller is told nothing."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class TooLarge(Refusal):
    """The body is over `TASKS_MAX_BODY_BYTES`."""


class RejectionReason(StrEnum):
    """Why a message can not become an execution."""

    MALFORMED_ENVELOPE = "malformed_envelope"
    MALFORMED_PAYLOAD = "malformed_payload"
    UNKNOWN_TASK = "unknown_task"
    BAD_ARGUMENTS = "bad_arguments"
    FOREIGN_TASK_ID = "foreign_task_id"


class Rejected(Refusal):
    """The message is malformed, names no task we know, or does not fit it. `detail` is for record and log, at most 500 characters."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        self.reason = reason
        self.detail = detail[:500]
        super().__init__(f"{reason}: {self.detail}")


class Saturated(Refusal):
    """This instance has no room for the delivery now; `resource` says of what."""

    def __init__(self, resource: str) -> None:
        self.resource = resource
        super().__init__(f"no {resource} free in time")


class ItemRefused(ReceiverError):
    """PostgreSQL refuses the values of one item (SQLSTATE class 22, 23 or 54); no other item is concerned."""

    def __init__(self, sqlstate: str, detail: str) -> None:
        self.sqlstate = sqlstate
        self.detail = detail[:500]
        super().__init__(f"SQLSTATE {sqlstate}: {self.detail}")


class DatabaseUnavailable(ReceiverError):
    """The database did not answer, or what it did is not known."""


class OutOfConnections(DatabaseUnavailable):
    """No connection in time: the pool is in use, or PostgreSQL is out of slots (53300)."""


class OutputLost(ReceiverError, OSError):
    """What a command prints cannot be written: its answer is not complete."""


class PipeClosed(OutputLost):
    """Whoever read what a command prints has gone, and wants no more of it."""
