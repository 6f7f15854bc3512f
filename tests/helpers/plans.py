"""Plans that are no methods, run on one kernel: `specnorm.measure` and `specnorm.value_and_grad` take methods alone."""

from __future__ import annotations

from typing import Any

from specnorm.backends import backend_for
from specnorm.running.base import Plan
from specnorm.running.measuring import run_plan
from specnorm.running.program import program_for
from specnorm.running.result import Result


def run(kernel: Any, plan: Plan, **geometry: Any) -> Result:
    return run_plan(kernel, plan, **geometry)


def gradient(kernel: Any, plan: Plan, **geometry: Any) -> Any:
    program = program_for(plan, tuple(kernel.shape), str(kernel.dtype), tuple(geometry.items()))
    return backend_for(kernel).value_and_grad(program, kernel)[1]
