from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from receiver.tasks.schedule import ScheduleError, check_schedule, check_timezone, clock_changes


@pytest.mark.parametrize(
    "schedule",
    [
        "*/10 * * * *",
        "0 * * * *",
        "0 3 * * *",
        "0 9 * * 1",
        "0 0 1 * *",
        "0 0 * JAN-MAR,dec MON-fri",
        "0-59/59 0-23/2 1,15,31 1-12 0-7",
        "5,10-20/5,*/30 00 01 * 7",
        "0\t0  29 2 *",
        "0 0 31 2 MON",  # day of month or weekday: fires on Mondays
    ],
)
def test_what_cloud_scheduler_takes_is_accepted(schedule: str) -> None:
    check_schedule(schedule)


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ("60 * * * *", "minute '60' is not allowed; use 0-59"),
        ("* 24 * * *", "hour '24' is not allowed; use 0-23"),
        ("* * 0 * *", "day of month '0' is not allowed; use 1-31"),
        ("* * 32 * *", "day of month '32'"),
        ("* * * 0 *", "month '0' is not allowed; use 1-12 or JAN-DEC"),
        ("* * * 13 *", "month '13'"),
        ("* * * * 8", "day of week '8' is not allowed; use 0-7 or SUN-SAT"),
        ("* * * MON *", "month 'MON'"),
        ("* * * * JAN", "day of week 'JAN'"),
        ("* * L * *", "day of month 'L'"),
        ("* * LW * *", "day of month 'LW'"),
        ("* * 15W * *", "day of month '15W'"),
        ("* * * * 5L", "day of week '5L'"),
        ("* * * * 5#2", "day of week '5#2'"),
        ("* * ? * *", "day of month '?'"),
        ("H * * * *", "minute 'H'"),
        ("-1 * * * *", "minute '-1'"),
        ("1-2-3 * * * *", "minute '1-2-3'"),
        ("*-5 * * * *", "minute '*-5'"),
        ("1, * * * *", "minute ''"),
        ("1.5 * * * *", "minute '1.5'"),
        ("٣ * * * *", "minute '٣'"),
        ("30-10 * * * *", "minute '30-10' is not allowed; use 0-59, *, ascending ranges"),
        ("* * * * FRI-SUN", "day of week 'FRI-SUN'"),
        ("5/15 * * * *", "minute '5/15'"),
        ("*/0 * * * *", "minute '*/0'"),
        ("*/60 * * * *", "minute '*/60'"),
        ("*/ * * * *", "minute '*/'"),
        ("*/2/2 * * * *", "minute '*/2/2'"),
        ("* * * */x *", "steps of 1-12 after * or a range"),
        ("@daily", "'@daily' is a nickname"),
        ("", "has 0 fields; write exactly five"),
        ("* * * *", "has 4 fields"),
        ("0 * * * * *", "has 6 fields"),
        (" * * * *", "has 4 fields"),
        (" * * * * *", "begins or ends with a space"),
        ("* * * *\n*", "holds a line break"),
        ("0 0 31 2 *", "day of month '31' never comes in month '2', so it would never fire"),
        ("0 0 30,31 FEB */2", "never fire"),
        ("0 0 31 4,6,9,11 *", "never fire"),
    ],
)
def test_what_cloud_scheduler_refuses_is_refused_with_field_value_and_what_is_allowed(
    schedule: str, says: str
) -> None:
    with pytest.raises(ScheduleError) as caught:
        check_schedule(schedule)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.one_of(
        st.text("0123456789*/,- JANMONL#?", max_size=20),
        st.lists(st.text("0123456789*/,-", min_size=1, max_size=4), min_size=5, max_size=5).map(" ".join),
        st.tuples(
            st.sampled_from(["*", "0", "*/7", "1-9/3"]),
            st.sampled_from(["*", "23", "1,2"]),
            st.sampled_from(["*", "29", "30", "31", "*/30", "31,30"]),
            st.sampled_from(["*", "2", "FEB-APR", "4,6", "*/2"]),
            st.sampled_from(["*", "7", "*/3", "MON-FRI"]),
        ).map(" ".join),
    )
)
def test_an_accepted_schedule_fires(schedule: str) -> None:
    try:
        check_schedule(schedule)
    except ScheduleError:
        return
    start = datetime(2024, 1, 1, tzinfo=UTC)
    assert next(CronSim(schedule, start)) > start


@pytest.mark.parametrize("zone", ["UTC", "Europe/London", "Etc/GMT+5", "America/Argentina/Ushuaia"])
def test_an_iana_time_zone_is_accepted(zone: str) -> None:
    check_timezone(zone)


@pytest.mark.parametrize(
    ("zone", "says"),
    [
        ("Europe/Lundon", "did you mean 'Europe/London'?"),
        ("europe/london", "did you mean 'Europe/London'?"),
        ("", "'' is no IANA time zone"),
        ("America", "'America' is no IANA time zone"),
        ("/etc/localtime", "no IANA time zone"),
        ("../../etc/passwd", "no IANA time zone"),
        ("right/UTC", "no IANA time zone"),
        ("localtime", "no IANA time zone"),
        ("UTC\x00", "no IANA time zone"),
        ("Zürich", "no IANA time zone"),
        ("Qqqq/Xxxx", "such as 'UTC' or 'Europe/London'"),
    ],
)
def test_anything_else_is_refused_and_a_close_one_is_named(zone: str, says: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        check_timezone(zone)
    assert says in str(caught.value)


# --- clock changes ----------------------------------------------------------------------------------------------

BERLIN = "2026-03-29 02:30 is missing, 2026-10-25 02:30 comes twice"


@pytest.mark.parametrize(
    ("schedule", "zone", "told"),
    [
        ("30 2 * * *", "Europe/Berlin", BERLIN),
        ("30 2 29 3 *", "Europe/Berlin", "2026-03-29 02:30 is missing"),
        ("0 */2 * * *", "Europe/Berlin", BERLIN.replace("02:30", "02:00")),
        ("59 1 * * *", "Europe/London", "2026-03-29 01:59 is missing, 2026-10-25 01:59 comes twice"),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-04 02:15 is missing"),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-05 01:45 comes twice"),
        ("0 3 * * *", "Europe/Berlin", None),
        ("59 1 * * *", "Europe/Berlin", None),
        ("30 2 * * MON", "Europe/Berlin", None),
        ("30 2 * 6 *", "Europe/Berlin", None),
        ("*/5 * * * *", "Europe/Berlin", None),
        ("30 2 * * *", "UTC", None),
        ("30 2 * * *", "Asia/Tokyo", None),
    ],
)
def test_a_schedule_in_an_hour_that_is_missing_or_doubled_is_known(
    schedule: str, zone: str, told: str | None
) -> None:
    assert clock_changes(schedule, zone, datetime(2026, 1, 1, tzinfo=UTC)) == told
