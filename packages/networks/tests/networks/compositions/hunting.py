"""Draws programs, asks for bounds, and tries to exceed them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
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


def table(counts: Counter[str]) -> str:
    """What became of programs, and the operators that had no bound, by their share of the programs."""
    refused = {name: count for name, count in counts.most_common() if name.startswith("refused")}
    lines = [f"{dict(counts - Counter(refused))}"]
    return "\n".join(lines + [f"{name}: {count / counts['programs']:.1%}" for name, count in refused.items()])


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

    def run(self, counts: Counter[str] | None = None) -> str | None:
        """What is wrong; None if nothing is."""
        counts = Counter() if counts is None else counts
        if not self.program.double().runs():
            counts["refused, not run"] += 1  # half precision allows empty values that double does not
            return None
        try:
            graph = self.program.graph()
            answer = self.region.claim(graph, self.method, check=self.check)
        except TranslationError as error:
            return f"TranslationError: {error}"
        except MethodError:
            counts["refused, not traced"] += 1
            return None
        except InternalError as error:
            return f"InternalError: {error}"
        except Exception as error:  # a crash is a failure, too
            return f"{type(error).__name__}: {error}"
        if answer.upper is None and not answer.unknown:
            return "no bound, and no operator is named"
        if answer.upper is None:
            counts[f"refused, {answer.unknown[0].operator}"] += 1
            return None
        counts.update(["bounded", self.region.kind])
        counts["not compared in full"] += self.check and not answer.checked.complete
        double = self.program.double()
        search = self._search(double.function(), RELATIVE)
        counts["tight"] += search.best.ratio > 0.5 * answer.upper
        searches = [(search, double.largest)]
        runtime = function_by_runtime(double) if self.by_runtime else None
        if runtime is not None:
            f, relative = runtime
            counts["attacked by ONNX Runtime"] += 1
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


def hunt(seeds: range, **options: Any) -> Counter[str]:
    counts = Counter[str]()
    for seed in seeds:
        one = replace(trial(Shapes(random.Random(seed))), **options)
        counts["programs"] += 1
        failure = one.run(counts)
        program = onnx.printer.to_text(one.program.proto)
        assert failure is None, f"{seed}: {failure}\n{one.region}, {one.method}\n{program}"
    return counts
