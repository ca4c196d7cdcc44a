"""The shop's tasks. `tasks` is what the receiver serves; everything else is ordinary Python."""

from __future__ import annotations

from example_tasks.images import resize_image
from example_tasks.mail import send_welcome_email
from example_tasks.maintenance import cleanup_old_data
from example_tasks.payments import charge
from receiver import TaskRoute

tasks = [
    TaskRoute(send_welcome_email),
    TaskRoute(resize_image, ack_deadline=600),
    # Three tries for a provider that is down; a declined card is not tried again at all.
    TaskRoute(charge, max_attempts=3, timeout=30),
    # Every night at three in London. ENABLE_CLEANUP=off skips it, without a deployment of code.
    TaskRoute(
        cleanup_old_data,
        schedule="0 3 * * *",
        schedule_timezone="Europe/London",
        kill_switch="ENABLE_CLEANUP",
    ),
]
