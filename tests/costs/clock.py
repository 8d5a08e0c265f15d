"""A clock that tests set, in place of that of the machine."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from hf_vbp.costs import timing


@dataclass
class Clock:
    """Counts the seconds of passes that ``seconds`` computes from the model and the time; ``runs`` also runs them."""

    seconds: Callable[[Any, float], float]
    noise: float = 0.0
    runs: bool = False
    now: float = 0.0
    passes: int = 0
    generator: random.Random = field(default_factory=lambda: random.Random(0))

    def time_once(self, model: Any, inputs: Any) -> float:
        if self.runs:
            model(**inputs)
        taken = self.seconds(model, self.now) * self.generator.lognormvariate(0, self.noise)
        self.now += taken
        self.passes += 1
        return taken

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "Clock":
        monkeypatch.setattr(timing, "_time_once", self.time_once)
        monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: self.now))
        return self
