"""The load: wrk posts deliveries as Pub/Sub does, each with an id of its own and a token that has to be checked.

The id stands in the payload, and the payload is base64 in the envelope. So that wrk spends its CPU on sending, the text
before the id is padded to whole groups of three bytes and the id's twelve digits are written from a table of a thousand
groups of three: a delivery costs the generator four look-ups.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

PATH = "/tasks/pubsub/"

SCRIPT = """
local head, middle, tail, first = HEAD, MIDDLE, TAIL, FIRST
local groups = {}
local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local function letter(number) return alphabet:sub(number + 1, number + 1) end
for number = 0, 999 do
  local digits = string.format("%03d", number)
  local bits = digits:byte(1) * 65536 + digits:byte(2) * 256 + digits:byte(3)
  groups[number] = letter(math.floor(bits / 262144)) .. letter(math.floor(bits / 4096) % 64)
    .. letter(math.floor(bits / 64) % 64) .. letter(bits % 64)
end
local next_id, threads = first, 0
function setup(thread) thread:set("offset", threads * 100000000000); threads = threads + 1 end
function init() next_id = first + offset end
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = TOKEN
function request()
  local id = next_id
  next_id = next_id + 1
  local body = head .. groups[math.floor(id / 1000000000)] .. groups[math.floor(id / 1000000) % 1000]
    .. groups[math.floor(id / 1000) % 1000] .. groups[id % 1000] .. middle .. string.format("%012d", id) .. tail
  return wrk.format(nil, nil, nil, body)
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(50), latency:percentile(99)))
end
"""

_RESULT = re.compile(r"^RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)$", re.MULTILINE)


class NoWrk(Exception):
    """wrk is not installed: `apt-get install wrk`, or your system's package of that name."""


def _compact(value: object) -> str:
    """As the enqueue client writes it."""
    return json.dumps(value, separators=(",", ":"))


def records(size: int) -> list[dict[str, Any]]:
    """A list of records, as people send them, whose JSON text has about this many bytes; one at the least."""
    each = {
        "id": 104_729,
        "email": "ada.lovelace@example.com",
        "name": "Ada Lovelace",
        "items": [{"sku": "A-1024", "count": 2, "price": 19.9}, {"sku": "B-77", "count": 1, "price": 4.25}],
        "paid": True,
        "note": 'Leave it at the door, please.\nThe bell says "Byron".',
    }
    many = max(1, size // len(_compact(each)))
    return [
        each | {"id": 104_729 * number, "email": f"ada.{number:08x}@example.com"} for number in range(many)
    ]


ARGUMENTS = tuple(records(1))
"""What a delivery gives its task unless a study says otherwise: one record of 230 bytes."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one round of load came to. Latencies in seconds."""

    requests: int
    seconds: float
    refused: int
    broken: int
    p50: float
    p99: float

    @property
    def rate(self) -> float:
        """Answers of 200 a second."""
        return (self.requests - self.refused) / self.seconds


def press(
    urls: Sequence[str],
    *,
    token: str,
    connections: int,
    seconds: int,
    first: int,
    args: Sequence[Any] = ARGUMENTS,
    task: str = "add",
) -> list[Load]:
    """Sends for so many seconds (wrk knows whole ones only) to every address at once, with so many connections each; one result an address.

    Args:
        token: the push token that every delivery carries.
        first: where the ids begin, so that no two rounds share one (below 10^11, two addresses are 10^10 apart).
        args: what each delivery gives the task.

    Raises:
        NoWrk: it is not installed.
    """
    running = []
    with tempfile.TemporaryDirectory(prefix="receiver-bench-") as folder:
        for number, url in enumerate(urls):
            script = Path(folder) / f"{number}.lua"
            script.write_text(_script(token, first + number * 10**10, args, task))
            command = [
                "wrk",
                "-t1",
                f"-c{connections}",
                f"-d{seconds}s",
                "--timeout",
                "30s",
                "-s",
                str(script),
            ]
            try:
                running.append(
                    subprocess.Popen([*command, url + PATH], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                )
            except FileNotFoundError:
                raise NoWrk(NoWrk.__doc__) from None
        return [_result(process.communicate()[0].decode()) for process in running]


def delivery(number: int, *, task: str = "add") -> bytes:
    """One delivery as `press` sends them, for the first recorded 200."""
    head, middle, tail = _parts(ARGUMENTS, task)
    digits = f"{number:012d}"
    return (head + base64.b64encode(digits.encode()).decode() + middle + digits + tail).encode()


def _script(token: str, first: int, args: Sequence[Any], task: str) -> str:
    head, middle, tail = _parts(args, task)
    values = {"HEAD": head, "MIDDLE": middle, "TAIL": tail, "TOKEN": f"Bearer {token}"}
    script = SCRIPT
    for name, value in values.items():
        script = script.replace(name, json.dumps(value).replace("\\/", "/"), 1)
    return script.replace("FIRST", str(first), 1)


def _parts(args: Sequence[Any], task: str) -> tuple[str, str, str]:
    front = '{"task_id":"bench-'
    front = front.replace("{", "{" + " " * (-len(front) % 3), 1)
    back = f'","task_name":"{task}","args":{_compact(args)},"kwargs":{{}},"enqueued_at":"2026-01-01T00:00:00+00:00"}}'
    head = '{"message":{"data":"' + base64.b64encode(front.encode()).decode()
    middle = base64.b64encode(back.encode()).decode() + '","messageId":"'
    tail = (
        '","publishTime":"2026-01-01T00:00:00Z","attributes":{"task_path":"bench_tasks.add"}},'
        '"subscription":"projects/local/subscriptions/bench"}'
    )
    return head, middle, tail


def _result(output: str) -> Load:
    found = _RESULT.search(output)
    if found is None:
        raise RuntimeError(f"wrk printed no result: {output.strip()[-500:]}")
    requests, duration, refused, broken, p50, p99 = (int(part) for part in found.groups())
    return Load(requests, duration / 1e6, refused, broken, p50 / 1e6, p99 / 1e6)
