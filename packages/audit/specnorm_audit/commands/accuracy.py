"""The command ``accuracy``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from specnorm_audit import accuracy, options
from specnorm_audit.commands import EXIT_CODES, GATE_FAILED, OK, TROUBLE, print_text
from specnorm_audit.commands.reporting import RANGE, check, reporting, write_file
from specnorm_audit.streams import complain, progress

_SAMPLE_FORMATS = ("table", "json", "csv")


@click.command("accuracy", epilog=EXIT_CODES)
@click.argument("model", metavar="MODEL.onnx", type=click.Path())
@click.argument("data", metavar="DATA.npz", type=click.Path())
@click.option(
    "--radius", "radii", type=options.radius, multiple=True, required=True, metavar="R",
    help="Radius of the ball around each sample, in the 2-norm; repeatable.",
)  # fmt: skip
@RANGE
@click.option(
    "--margin", type=options.bound, metavar="M", default="0",
    help="The label's logit must exceed every other one by more than M. Default: 0.",
)  # fmt: skip
@click.option(
    "--budget", type=options.seconds, metavar="SECONDS",
    help="Time limit for each sample and radius. Default: a fixed number of steps.",
)  # fmt: skip
@reporting(_SAMPLE_FORMATS)
@click.option(
    "--fail-below", type=options.share, metavar="SHARE",
    help="Exit with 1 unless at least this share of the labels is certified, from 0 to 1, at every radius.",
)  # fmt: skip
def command(
    model: str,
    data: str,
    output_format: str | None,
    output: Path | None,
    quiet: bool,
    fail_below: float | None,
    **arguments: Any,
) -> int:
    """Prove within which distance the label of each sample of DATA does not change.

    MODEL is the ONNX file of a classifier; DATA a file with the arrays x (samples, ...) and y (labels), as numpy.savez
    writes them.
    """
    check({"--output": output}, [model, data])
    report_format = options.format_of(output_format, output, _SAMPLE_FORMATS)
    with progress(model, shown=not quiet) as tick:
        answer = accuracy.certified(model, data, progress=tick, **arguments)
    text = partial(accuracy.render, answer, report_format)
    is_written = print_text(text()) if output is None else write_file(output, text)
    failures = accuracy.failures_below_share(answer, fail_below)
    for line in failures:
        complain(line)
    if failures:
        return GATE_FAILED
    return OK if is_written else TROUBLE
