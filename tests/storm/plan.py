"""How large a storm is, and what is reported of it."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.storm.books import Balance
from tests.storm.weather import Forecast


@dataclass(frozen=True, slots=True)
class Plan:
    """How large.

    Attributes:
        seconds: of weather.
        deaths: SIGKILLs at each named point.
        lies: how often a call that succeeded is reported as a timeout, as `storm_points.Liar` takes it.
        slots: the capacity of a receiver.
        crowd: seconds for which ten times the capacity of all is pressed.
        overtime: seconds for the last deaths, when the weather is over.
        patience: seconds that everything may take to be delivered once the sky is clear.
        least: faults that must have happened, or the storm was none.
    """

    messages: int
    seconds: float
    deaths: int
    forecast: Forecast
    lies: str
    slots: int
    crowd: float
    overtime: float
    patience: float
    least: Mapping[str, int]


FULL: Final = Plan(
    messages=10_000,
    seconds=380,
    deaths=23,
    forecast=Forecast(
        strikes=30,
        frosts=25,
        restarts=52,
        cuts=70,
        halves=75,
        silences=75,
        droughts=12,
        hoards=12,
        failovers=8,
        stalls=5,
        closures=5,
        thorns=3,
        sicknesses=3,
        snapshots=3,
        sick_rows=500,
        dead_rows=20_000,
    ),
    lies="ledger=0.004,commit=0.01,publisher=0.05",
    slots=8,
    crowd=120,
    overtime=60,
    patience=90,
    least={
        "kills": 500,
        "points": 12,
        "restarts": 50,
        "cuts": 200,
        "frosts": 15,
        "lies": 20,
        "failovers": 8,
        "stalls": 5,
        "read-only": 5,
        "triggers": 3,
        "sick topics": 3,
        "snapshots": 3,
    },
)
SHORT: Final = Plan(
    messages=400,
    seconds=25,
    deaths=1,
    forecast=Forecast(
        strikes=2,
        frosts=1,
        restarts=2,
        cuts=2,
        halves=3,
        silences=3,
        droughts=1,
        hoards=1,
        failovers=2,
        stalls=1,
        closures=1,
        thorns=1,
        sicknesses=1,
        snapshots=1,
        sick_rows=100,
        dead_rows=5_000,
    ),
    lies="ledger=0.004,commit=0.01,publisher=0.05",
    slots=4,
    crowd=2,
    overtime=5,
    patience=60,
    least={
        "kills": 8,
        "points": 6,
        "restarts": 2,
        "cuts": 6,
        "frosts": 0,
        "lies": 0,
        "failovers": 2,
        "stalls": 1,
        "read-only": 1,
        "triggers": 1,
        "sick topics": 1,
        "snapshots": 1,
    },
)


@dataclass(slots=True)
class Report:
    """What happened, and what came of it."""

    seed: int
    seconds: float = 0.0
    messages: int = 0
    crowd: int = 0
    skews: list[float] = field(default_factory=list)
    deliveries: Counter[int] = field(default_factory=Counter)
    crowded: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)
    lies: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    asked: int = 0
    slowest: float = 0.0
    memory: int = 0
    recovered: float = 0.0
    drained: float = 0.0
    balance: Balance = field(default_factory=Balance)

    @property
    def happened(self) -> dict[str, int]:
        """The faults, as `Plan.least` names them."""
        return {
            "kills": self.exits[-signal.SIGKILL],
            "points": len(self.kills),
            "restarts": self._faults("immediate restarts"),
            "cuts": self._faults("TCP cuts"),
            "frosts": self._faults("SIGSTOP"),
            "lies": self.lies.total(),
            "failovers": self._faults("failovers"),
            "stalls": self._faults("stalls"),
            "read-only": self._faults("moments in which the database is read-only"),
            "triggers": self._faults("triggers"),
            "sick topics": self._faults("sick topics"),
            "snapshots": self._faults("old snapshots"),
        }

    def _faults(self, prefix: str) -> int:
        return sum(count for name, count in self.faults.items() if name.startswith(prefix))
