"""Cloud Scheduler's cron grammar, and its time zones.

Five fields; `*`, numbers, ascending ranges, steps after `*` or a range, lists; JAN-DEC and SUN-SAT; weekday 0-7. Cloud Scheduler
refuses `L`, `W`, `#`, `?`, seconds, `@daily` and a step after a single number, which other crons know; so do we. A
schedule that can never fire (31 February) is refused as well.

Invariant: what passes here is also read by cronsim, which gives the firing times in local mode.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cronsim import CronSim, CronSimError


class ScheduleError(ValueError):
    """The schedule or time zone would be refused; the message says which field, which value, and what is allowed."""


@dataclass(frozen=True, slots=True)
class _Field:
    title: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        names = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return f"{self.low}-{self.high}{names}"

    def number(self, text: str) -> int | None:
        """The value of one number or name, or None."""
        if text.upper() in self.names:
            return self.names.index(text.upper()) + self.low
        if re.fullmatch(r"[0-9]{1,2}", text) and self.low <= int(text) <= self.high:
            return int(text)
        return None


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _DAYS),
)
_NOT_ZONES: Final = ("posix/", "right/", "posixrules", "localtime", "Factory")


def check_schedule(schedule: str) -> None:
    """Checks a schedule against Cloud Scheduler's grammar.

    Raises:
        ScheduleError: it is not five fields, a field is not allowed, or no date ever matches.
    """
    if schedule.startswith("@"):
        raise ScheduleError(
            f"{schedule[:40]!r} is a nickname; write five fields, such as '0 0 * * *' for daily"
        )
    fields = re.split(r"[ \t]+", schedule)
    if len(fields) != len(_FIELDS) or "" in fields:
        raise ScheduleError(
            f"{schedule[:80]!r} has {len(schedule.split())} fields; write exactly five, separated by spaces: "
            "minute, hour, day of month, month, day of week"
            if len(schedule.split()) != len(_FIELDS)
            else f"{schedule[:80]!r} begins or ends with a space or holds a line break; write it without"
        )
    for field, text in zip(_FIELDS, fields, strict=True):
        for term in text.split(","):
            _check_term(field, term)
    try:
        CronSim(schedule, datetime(2024, 1, 1, tzinfo=UTC))
    except CronSimError:
        # The grammar is checked, so this is cronsim's finding that no chosen month has the chosen day.
        raise ScheduleError(
            f"day of month {fields[2]!r} never comes in month {fields[3]!r}, so it would never fire"
        ) from None


def check_timezone(name: str) -> None:
    """Checks that a time zone is one of the IANA database.

    Raises:
        ScheduleError: it is not; a close one is named.
    """
    if re.fullmatch(r"[A-Za-z0-9_+/-]+", name) and not name.startswith(_NOT_ZONES):
        try:
            zoneinfo.ZoneInfo(name)
        except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
            pass  # a folder of the database, an absolute path, an unknown name
        else:
            return
    known = {zone.lower(): zone for zone in sorted(zoneinfo.available_timezones())}
    close = difflib.get_close_matches(name.lower()[:80], known, n=1)
    hint = f"; did you mean {known[close[0]]!r}?" if close else ""
    raise ScheduleError(f"{name[:80]!r} is no IANA time zone, such as 'UTC' or 'Europe/London'{hint}")


def clock_changes(schedule: str, timezone: str, since: datetime) -> str | None:
    """When in the year after `since` the schedule falls into an hour that is missing or comes twice; None if it never does.

    A schedule of every hour fires in the hours beside it, so that it does not count. `since` is in UTC.
    """
    if schedule.split()[1] == "*":
        return None
    found = []
    for at, before, after in _changes(timezone, since):
        low, high = sorted((at + before, at + after))
        # The wall's minutes, as if they were UTC's: cronsim returns those after its start.
        hit = next(CronSim(schedule, low - timedelta(minutes=1)), high)
        if hit < high:
            found.append(f"{hit:%Y-%m-%d %H:%M} {'is missing' if after > before else 'comes twice'}")
    return ", ".join(found) or None


def _changes(timezone: str, since: datetime) -> Iterator[tuple[datetime, timedelta, timedelta]]:
    """Each change of the zone's clock within a year: its time in UTC, the offset before and after it."""
    zone = zoneinfo.ZoneInfo(timezone)

    def offset(at: datetime) -> timedelta:
        return at.astimezone(zone).utcoffset() or timedelta(0)

    day = since.replace(minute=0, second=0, microsecond=0)
    for _ in range(366):
        before, day = day, day + timedelta(days=1)
        if offset(before) != offset(day):
            minutes = (before + timedelta(minutes=n) for n in range(1, 24 * 60 + 1))
            at = next(minute for minute in minutes if offset(minute) != offset(before))
            yield at, offset(before), offset(at)


def _check_term(field: _Field, term: str) -> None:
    span, slash, step = term.partition("/")
    bounds = [field.number(bound) for bound in span.split("-")]
    numbers = [bound for bound in bounds if bound is not None]
    single = len(bounds) == len(numbers) == 1 and not slash
    ascending = len(bounds) == len(numbers) == 2 and numbers == sorted(numbers)  # noqa: PLR2004 - a range has two ends
    stepped = not slash or (re.fullmatch(r"[0-9]{1,2}", step) is not None and 1 <= int(step) <= field.high)
    if not (stepped and (span == "*" or single or ascending)):
        raise ScheduleError(
            f"{field.title} {term[:40]!r} is not allowed; use {field.allowed}, *, ascending ranges such as "
            f"{field.low}-{field.high}, steps of 1-{field.high} after * or a range such as */2, and lists of these"
        )
