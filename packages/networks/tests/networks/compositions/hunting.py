"""Draws programs, asks for bounds, and tries to exceed them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx.printer
from networks.compositions.claims import Function, Region, Search
from networks.compositions.onnx_patterns import program as onnx_program
from networks.compositions.onnx_programs import OnnxProgram, function_by_runtime
from networks.drawing import Shapes
from specnorm_networks import Multipliers, Product
from specnorm_networks.tools import Method

from specnorm.errors import InternalError, MethodError, TranslationError

RELATIVE = 1e-12
"""What rounding may change in double precision."""
KINDS = ("everywhere", "ball", "box")


@dataclass
class Counts:
    programs: int = 0
    bounded: int = 0
    unchecked: int = 0
    """Bounded, and some value was not compared with the model."""
    refused: Counter[str] = field(default_factory=Counter)
    """Programs without a bound, by the operator that is named first."""
    kinds: Counter[str] = field(default_factory=Counter)
    tight: int = 0
    """Bounds of which half was reached."""
    by_runtime: int = 0
    """Bounds that ONNX Runtime attacked, too."""

    def table(self) -> str:
        lines = [
            f"{self.programs} programs, {self.bounded} bounded ({dict(sorted(self.kinds.items()))}), of which "
            f"{self.tight} to a half at least; {self.unchecked} not compared in full, {self.by_runtime} attacked twice",
            "refused by operator (share of the programs): "
            + ", ".join(f"{n} {c / max(self.programs, 1):.1%}" for n, c in self.refused.most_common()),
        ]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Trial:
    """One program, where it is asked about, and how."""

    program: OnnxProgram
    region: Region
    method: Method
    seed: int
    check: bool = True
    """Whether the network is compared with its model and the answer attacked, as it is by default."""
    by_runtime: bool = False
    """Whether ONNX Runtime attacks it, too, where it has the operators."""

    def run(self, counts: Counts | None = None) -> str | None:
        """What is wrong; None if nothing is."""
        counts = counts or Counts()
        if not self.program.double().runs():
            counts.refused["(not run)"] += 1  # half precision allows empty values that double does not
            return None
        try:
            graph = self.program.graph()
            answer = self.region.claim(graph, self.method, check=self.check)
        except TranslationError as error:
            return f"TranslationError: {error}"
        except MethodError:
            counts.refused["(not traced)"] += 1
            return None
        except InternalError as error:
            return f"InternalError: {error}"
        except Exception as error:  # a crash is a failure, too
            return f"{type(error).__name__}: {error}"
        if answer.upper is None and not answer.unknown:
            return "no bound, and no operator is named"
        if answer.upper is None:
            counts.refused[answer.unknown[0].operator] += 1
            return None
        counts.bounded += 1
        counts.kinds[self.region.kind] += 1
        counts.unchecked += self.check and not answer.checked.complete
        double = self.program.double()
        search = self._search(double.function(), RELATIVE)
        counts.tight += search.best.ratio > 0.5 * answer.upper
        searches = [(search, double.largest)]
        runtime = function_by_runtime(double) if self.by_runtime else None
        if runtime is not None:
            f, relative = runtime
            counts.by_runtime += 1
            searches.append((self._search(f, relative), lambda x: relative / RELATIVE * double.largest(x)))
        for search, largest in searches:
            if search.exceeds(answer.upper, largest):
                return f"claimed {answer.upper!r}, reached {search.best.ratio!r}"
        return None

    def _search(self, f: Function, relative: float) -> Search:
        search = Search(f, self.region, np.random.default_rng(self.seed), relative)
        search.run(5)
        return search


def trial(d: Shapes) -> Trial:
    """Half of them are compared and attacked."""
    kind = d.choice(KINDS)
    program = onnx_program(d, kind)
    seed = d.getrandbits(16)
    method: Method = Product() if d.random() < 0.5 else Multipliers(steps=3, seconds=2)
    region = Region.drawn(kind, program.shape, np.random.default_rng(seed))
    return Trial(program, region, method, seed, d.random() < 0.5)


def hunt(seeds: range, **options: Any) -> Counts:
    """The programs of some numbers, the same ones whatever ran before."""
    counts = Counts()
    for seed in seeds:
        one = replace(trial(Shapes(random.Random(seed))), **options)
        counts.programs += 1
        failure = one.run(counts)
        program = onnx.printer.to_text(one.program.proto)
        assert failure is None, f"{seed}: {failure}\n{one.region}, {one.method}\n{program}"
    return counts
