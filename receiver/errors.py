"""Every error this project raises on purpose, and what each asks of whoever meets it.

    ReceiverError
    ├── ConfigurationError        start is refused; the message is one line for the operator
    │   ├── SettingError          an environment variable
    │   ├── PluginError           a plugin module, its list of routes, or TASKS_SETUP
    │   └── SchemaError           the database's tables are older than this code, or not ours to use
    ├── DeclarationError          a @task or TaskRoute that Pub/Sub or Scheduler would refuse (a ValueError)
    ├── PermanentError            raised by a task: do not try again
    ├── TransactionError          a task ended or bypassed its own transaction
    ├── Refusal                   a delivery ended before anything was claimed
    │   ├── Forbidden             403: not a push of ours
    │   ├── TooLarge              400: over the cap, never read to its end
    │   ├── Rejected              400: malformed, unknown, or not fitting
    │   └── Saturated             429: no room on this instance now
    ├── TaskResultMissing         the record has no execution of this id
    ├── ItemRefused               the database refuses the values of one item
    ├── GoogleError               an API of Google's did not do what was asked
    │   ├── NoCredentials         there is nothing to say who we are with: log in, or give the service an account
    │   ├── GoogleUnavailable     no answer, or only answers that say to come again: try later
    │   └── GoogleRefused         an answer that says no; another try would hear the same
    │       ├── GoogleForbidden   401, 403: the account lacks a role, or the API is not enabled
    │       ├── GoogleMissing     404: there is no such resource
    │       └── GoogleConflict    409: it exists already, or somebody changes it at this moment
    ├── DatabaseUnavailable       the record cannot be reached, or its answer is not known
    │   └── OutOfConnections      ... because every connection is in use: back off
    └── OutputLost                a command cannot print: a full disk, a file that is too large (an OSError)
        └── PipeClosed            ... because whoever read it has gone: end, and say nothing

Expected endings of a *task* are values (`receiver.endings.outcomes`), not exceptions.
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
    """The database's tables are missing or older than this code, or not this role's to use; the message says what to do.

    Args:
        state: the same in two words, for /ready.
    """

    def __init__(self, message: str, *, state: str = "not migrated") -> None:
        self.state = state
        super().__init__(message)


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


class TaskResultMissing(ReceiverError, LookupError):
    """The record has no execution of this id, or it is another task's: check the id, and how long final rows are kept."""


class ItemRefused(ReceiverError):
    """PostgreSQL refuses the values of one item (SQLSTATE class 22, 23 or 54); no other item is concerned."""

    def __init__(self, sqlstate: str, detail: str) -> None:
        self.sqlstate = sqlstate
        self.detail = detail[:500]
        super().__init__(f"SQLSTATE {sqlstate}: {self.detail}")


class GoogleError(ReceiverError):
    """An API of Google's did not do what was asked; the message is one line, without anything secret."""


class NoCredentials(GoogleError):
    """There are no Google credentials here, or they are refused; the message says what to do."""


class GoogleUnavailable(GoogleError):
    """A Google API could not be reached, or said 429 or 5xx to the end. What the last try did is not known."""


class GoogleRefused(GoogleError):
    """A Google API says no.

    Args:
        status: of HTTP.
        reason: Google's own code, such as `INVALID_ARGUMENT`; "" when it gave none.
        message: Google's sentence, or ours where that helps more.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        super().__init__(message or f"Google answers {status} {reason}".rstrip())


class GoogleForbidden(GoogleRefused):
    """The account may not do that (403), or is not known (401): give it the role, or enable the API."""


class GoogleMissing(GoogleRefused):
    """There is no such resource (404)."""


class GoogleConflict(GoogleRefused):
    """It exists already, or another writer is at it (409): `reason` is `ALREADY_EXISTS` or `ABORTED`."""


class DatabaseUnavailable(ReceiverError):
    """The database did not answer, or what it did is not known."""


class OutOfConnections(DatabaseUnavailable):
    """No connection in time: the pool is in use, or PostgreSQL is out of slots (53300)."""


class OutputLost(ReceiverError, OSError):
    """What a command prints cannot be written: its answer is not complete."""


class PipeClosed(OutputLost):
    """Whoever read what a command prints has gone, and wants no more of it."""
