"""`make model`: every scene with more rows and more faults than the suite has time for; some minutes.

make model MODEL_ARGS="--rows 1 --more silences=2 crashes=1"     other bounds
make model MODEL_ARGS="--without tokens"                         without a mend: prints the shortest way to its fault
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

from tests.model import scenes
from tests.model.model import Model
from tests.model.rules import MENDS


def main() -> int:
    """Explores; 1 when something is not as it must be."""
    options = _options()
    more = {kind: int(count) for kind, _, count in (each.partition("=") for each in options.more)}
    bad = 0
    for scene in scenes.SCENES:
        if options.scene not in scene.name:
            continue
        rules = replace(scene.rules, mends=frozenset(MENDS) - set(options.without))
        began = time.monotonic()
        chosen = replace(scenes.of(scene, options.rows, **more), rules=rules)
        found = Model(chosen).explore(most=options.most)
        taken = time.monotonic() - began
        # Without the limit the last step leads nowhere new: all states were seen.
        print(
            f"{found.states:>10,} states, {found.depth:>3} steps deep, {taken:6.1f} s  {scene.name}",
            flush=True,
        )
        if found.trace is not None:
            bad = 1
            print(found.trace)
    return bad


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("make model", description="Explores the protocols of the record.")
    parser.add_argument("--rows", type=int, default=2, help="executions (default: 2)")
    parser.add_argument("--scene", default="", help="only scenes with this in their name")
    parser.add_argument("--more", nargs="*", default=["deliveries=1"], metavar="KIND=N")
    parser.add_argument(
        "--without", nargs="*", default=[], choices=sorted(MENDS), help="leave these mends out"
    )
    parser.add_argument(
        "--most", type=int, default=None, metavar="N", help="stop a scene after about N states"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
