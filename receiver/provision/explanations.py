"""Google's refusals in one line: what could not be done, in Google's words, and what to do about it."""

from __future__ import annotations

from typing import Final

from httpx import codes

from receiver.errors import (
    GoogleConflict,
    GoogleError,
    GoogleForbidden,
    GoogleMissing,
    GoogleRefused,
    GoogleUnavailable,
)
from receiver.provision.resources import Kind
from receiver.provision.scope import Scope

_ROLES: Final = {
    Kind.TOPIC: "roles/pubsub.editor",
    Kind.SUBSCRIPTION: "roles/pubsub.editor",
    Kind.JOB: "roles/cloudscheduler.admin",
    Kind.GRANT: "roles/pubsub.admin, and roles/iam.serviceAccountAdmin on the push account",
    None: "roles/browser",
}
_APIS: Final = {
    Kind.TOPIC: "pubsub",
    Kind.SUBSCRIPTION: "pubsub",
    Kind.JOB: "cloudscheduler",
    Kind.GRANT: "iam",
    None: "cloudresourcemanager",
}


def explained(error: GoogleError, doing: str, kind: Kind | None, scope: Scope) -> GoogleError:
    """The same error, its message saying what could not be done and what to do."""
    line = f"cannot {doing}: {reason(error, kind, scope)}"
    match error:
        case GoogleRefused():
            return type(error)(error.status, error.reason, line)
        case GoogleUnavailable():
            return GoogleUnavailable(line)
        case _:  # no credentials: says what to do already
            return error


def reason(error: GoogleError, kind: Kind | None, scope: Scope) -> str:
    """Google's words and the way out."""
    said = str(error)
    match error:
        case GoogleForbidden() if _is_disabled(error):
            return f"its API is not enabled: gcloud services enable {_APIS[kind]}.googleapis.com --project {scope.project}"
        case GoogleForbidden():
            return f"{said}; {_permission(error, kind)}"
        case GoogleMissing() if kind is Kind.JOB:
            return (
                f"{said}; is SCHEDULER_LOCATION {scope.location} a region of Cloud Scheduler? "
                f"gcloud scheduler locations list --project {scope.project}; or use --skip-scheduler"
            )
        case GoogleRefused() if kind is Kind.GRANT and (who := _nobody(error, scope)):
            return f"{said}; {who}"
        case GoogleConflict() | GoogleUnavailable():
            return f"{said}; try again"
        case _:
            return said


def _nobody(error: GoogleRefused, scope: Scope) -> str | None:
    """Which account is not there, if that is what ails a grant: the one that it is on, or the one that it is for."""
    if isinstance(error, GoogleMissing):
        return "is TASKS_SERVICE_ACCOUNT an account that exists?"
    if "does not exist" in error.message:
        return (
            "if that is Pub/Sub's own account: gcloud beta services identity create "
            f"--service pubsub.googleapis.com --project {scope.project}; then apply again"
        )
    return None


def _permission(error: GoogleForbidden, kind: Kind | None) -> str:
    if error.status == codes.UNAUTHORIZED:
        return "log in again: gcloud auth application-default login"
    if "actAs" in error.message:
        return "whoever provisions needs roles/iam.serviceAccountUser on the push account"
    return f"whoever provisions needs {_ROLES[kind]}"


def _is_disabled(error: GoogleForbidden) -> bool:
    return "API has not been used" in error.message or "it is disabled" in error.message
