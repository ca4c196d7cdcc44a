"""A signal ends the demo whatever the interpreter does when it comes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

DYING = """
import os, sys, time, weakref
from receiver.cli import demo

class Collected:
    pass

demo.stop_at_signals()
one = Collected()
reference = weakref.ref(one, lambda _: os.kill(os.getpid(), int(sys.argv[1])))
del one
time.sleep(30)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_callback_of_a_weak_reference_is_not_lost(number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(int(number))], capture_output=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (128 + number, b"")
