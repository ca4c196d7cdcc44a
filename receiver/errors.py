"""Every error that this project raises on purpose, and what to do about it.

    ReceiverError
    ├── ConfigurationError        start is refused; the message is one line for the operator
    │   ├── SettingError          an environment variable
    │   ├── PluginError           a plugin module, its list of routes, TASKS_SETUP or TASKS_AROUND
    │   └── SchemaError           the database's tables are older than this code, or this role may not use them
    ├── DeclarationError          a @task or TaskRoute that Pub/Sub or Scheduler would refuse (a ValueError)
    ├── PermanentError            raised by a task: do not try again
    ├── TransactionError          a task ended or bypassed its own transaction
    ├── Refusal                   a delivery ended before anything was claimed
    │   ├── Forbidden             403: the push has no valid token
    │   ├── TooLarge              400: the body is over the limit, and was not read to its end
    │   ├── Rejected              400: malformed, of an unknown task, by another's subscription, or unfit arguments
    │   └── Saturated             429: no room on this instance now
    ├── TaskResultMissing         the record has no execution of this id
    ├── ItemRefused               the database refuses the values of one item
    ├── GoogleError               a call of a Google API failed
    │   ├── NoCredentials         there are no credentials: log in, or give the service an account
    │   ├── GoogleUnavailable     no answer, or only 429 and 5xx: try later
    │   └── GoogleRefused         refused; another try would get the same answer
    │       ├── GoogleForbidden   401, 403: the account lacks a role, or the API is not enabled
    │       ├── GoogleMissing     404: there is no such resource
    │       └── GoogleConflict    409: it exists already, or another writer changes it now
    ├── DatabaseUnavailable       the record cannot be reached, or its answer was lost
    │   └── OutOfConnections      ... because every connection is in use: back off
    └── OutputLost                a command cannot print: a full disk, a file that is too large (an OSError)
        └── PipeClosed            ... because its reader has closed the pipe: end silently

Expected endings of a *task* are values (`receiver.endings.outcomes`), not exceptions.
"""

from __future__ import annotations

from enum import StrEnum


class ReceiverError(Exception):
    """Base of all errors raised on purpose."""


class ConfigurationError(ReceiverError):
    """The service cannot start; the message says what to change."""


class SettingError(ConfigurationError):
    """An environment variable has a value that is not allowed.

    Args:
        variable: its name.
        value: the value, already redacted, or None when it is not set.
        allowed: the values that are accepted, as the end of a sentence.
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
    """The database's tables are missing, older than this code, or closed to this role; the message says what to do.

    Args:
        state: the problem in two words, for /ready.
    """

    def __init__(self, message: str, *, state: str = "not migrated") -> None:
        self.state = state
        super().__init__(message)


class DeclarationError(ReceiverError, ValueError):
    """A task or route is declared with something that Pub/Sub or Cloud Scheduler would refuse."""


class PermanentError(ReceiverError):
    """Raise this in a task when a retry cannot help: the execution becomes FAILED and final, the message is acked."""


class TransactionError(ReceiverError):
    """The task ended its own transaction. It must not: the receiver commits it together with the record."""


class Refusal(ReceiverError):
    """A delivery that ended before anything was claimed."""


class Forbidden(Refusal):
    """The push has no valid token. `reason` is for the log; the answer does not contain it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class TooLarge(Refusal):
    """The body is over `TASKS_MAX_BODY_BYTES`, or what the record has is too large to be read back."""


class RejectionReason(StrEnum):
    """Why a message cannot become an execution."""

    MALFORMED_ENVELOPE = "malformed_envelope"
    MALFORMED_PAYLOAD = "malformed_payload"
    UNKNOWN_TASK = "unknown_task"
    BAD_ARGUMENTS = "bad_arguments"
    FOREIGN_TASK_ID = "foreign_task_id"
    WRONG_SUBSCRIPTION = "wrong_subscription"
    DEAD_LETTER = "dead_letter"


class Rejected(Refusal):
    """The message is malformed, of an unknown task, or does not fit its task. `detail` (500 characters) is for record and log."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        self.reason = reason
        self.detail = detail[:500]
        super().__init__(f"{reason}: {self.detail}")


class Saturated(Refusal):
    """This instance has no room for the delivery now; `resource` names what is used up."""

    def __init__(self, resource: str) -> None:
        self.resource = resource
        super().__init__(f"no {resource} free in time")


class TaskResultMissing(ReceiverError, LookupError):
    """The record has no execution with this id, or it belongs to another task: check the id, and `TASKS_RETENTION`."""


class ItemRefused(ReceiverError):
    """PostgreSQL refuses the values of one item (SQLSTATE class 22, 23 or 54); the other items of the batch are not affected."""

    def __init__(self, sqlstate: str, detail: str) -> None:
        self.sqlstate = sqlstate
        self.detail = detail[:500]
        super().__init__(f"SQLSTATE {sqlstate}: {self.detail}")


class GoogleError(ReceiverError):
    """A call of a Google API failed; the message is one line, without secrets."""


class NoCredentials(GoogleError):
    """There are no Google credentials here, or they are refused; the message says what to do."""


class GoogleUnavailable(GoogleError):
    """A Google API could not be reached, or answered 429 or 5xx each time. Whether the last try had an effect is not known."""


class GoogleRefused(GoogleError):
    """A Google API refuses a request.

    Args:
        status: the HTTP status.
        reason: Google's own code, such as `INVALID_ARGUMENT`; "" when it gave none.
        message: Google's sentence, or ours if that helps more.
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
    """It exists already, or another writer changes it now (409): `reason` is `ALREADY_EXISTS` or `ABORTED`."""


class DatabaseUnavailable(ReceiverError):
    """The database did not answer, or its answer was lost; it is not known what it did."""


class OutOfConnections(DatabaseUnavailable):
    """No connection in time: the pool is in use, or PostgreSQL is out of slots (53300)."""


class OutputLost(ReceiverError, OSError):
    """A command's output cannot be written: it is not complete."""


class PipeClosed(OutputLost):
    """The reader of a command's output has closed the pipe."""
