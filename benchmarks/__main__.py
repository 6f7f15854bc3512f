"""The benchmark suite: ``python -m benchmarks ...``.

run --size full --out FILE       # under each instruction set; twelve minutes on one thread; "smoke" takes a minute
gpu --out FILE                   # what is measured on a GPU, of every library that has one
compare FILE [COMMITTED]         # what got slower than noise allows; exit code 1 if anything
page [FILE]                      # docs/benchmarks/index.md, or the tables of a file beside it
constraint --out FILE            # does spectral_norm hold in training? 25 minutes on one thread; --quick takes two
constraint-long --out FILE       # does it hold for 2,000 steps, and at ten times the rate? 20 minutes on one thread
constraint-cost --out FILE       # what it costs: a weight, a training step, JAX, the state
launches                         # operations of the constraint in one pass, which a GPU launches
constraint-gpu --out FILE        # what a training step costs on a CUDA device; a minute
constraint-page                  # the tables of docs/benchmarks/index.md about training from the committed lines
ball --out FILE                  # does training inside the ball work? 25 minutes on one thread; --quick takes one
ball-page                        # the tables of docs/benchmarks/index.md about the ball from the committed lines
jax-first-calls --out FILE       # what first calls compile in JAX; two minutes
jax-first-calls-page             # prints their table, from the committed lines
starts --before COMMIT --out FILE  # processor time of imports, first calls, the command; prints a table; a minute
widths --out FILE                # processor time of calls by the number of channels; six minutes on one thread
widths-page                      # their table of docs/benchmarks/index.md from its committed lines
long-axes --out FILE             # time and memory of layers with many pixels; two minutes on one thread
long-axes-page                   # their table of docs/benchmarks/index.md from its committed lines
networks --out FILE              # bounds of published networks by each method; 12 minutes on one thread
networks-page                    # the tables of docs/benchmarks/index.md from its committed lines

The commands that make tables of a page print those that the page does not show.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks import constraint_page, instructions, page, suite
from benchmarks.facts import FOLDER, read, write

COMMITTED = FOLDER / "suite.jsonl"
ON_GPU = ("torch cuda", "cupy", "jax cuda")


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the commands and their options."""
    form = argparse.RawDescriptionHelpFormatter
    commands = argparse.ArgumentParser("python -m benchmarks", description=__doc__, formatter_class=form)
    parsers = commands.add_subparsers(dest="command", required=True)
    run, gpu, compare, suite_page = (parsers.add_parser(name) for name in ("run", "gpu", "compare", "page"))
    for option in ("--sections", "--libraries"):
        run.add_argument(option, nargs="+", default=(), help="these alone")
    run.add_argument("--threads", type=int, default=1, help="of each library; 0: as they come")
    run.add_argument("--instructions", nargs="+", choices=instructions.sets(), default=instructions.sets())
    run.add_argument("--before", type=Path, default=COMMITTED, help="lines that the new ones are compared with")
    run.add_argument("--here", action="store_true", help="in this process, with the instructions that it has")
    run.add_argument("--add", action="store_true", help="to the lines of the file")
    gpu.set_defaults(here=True, add=False, threads=0, sections=("network", "libraries"), libraries=ON_GPU)
    for each in (run, gpu):
        each.add_argument("--size", choices=("smoke", "full"), default="smoke" if each is run else "full")
        each.add_argument("--out", type=Path)
    compare.add_argument("new", type=Path)
    for each in (compare, suite_page):
        each.add_argument("file", type=Path, nargs="?", default=COMMITTED)
    constraint = parsers.add_parser("constraint")
    constraint_cost = parsers.add_parser("constraint-cost")
    parsers.add_parser("constraint-long").add_argument("--out", type=Path)
    parsers.add_parser("constraint-gpu").add_argument("--out", type=Path)
    for option in ("--loops", "--methods"):
        constraint.add_argument(option, nargs="+", default=(), help="these alone")
    constraint.add_argument("--seeds", nargs="+", type=int, default=())
    constraint.add_argument("--steps", type=int, help="of each loop; its own number if not given")
    constraint.add_argument("--each-step", action="store_true", help="record the largest norm of each step too")
    for each in (constraint, constraint_cost):
        each.add_argument("--quick", action="store_true", help="a sample")
        each.add_argument("--out", type=Path)
    parsers.add_parser("constraint-page")
    in_ball = parsers.add_parser("ball")
    in_ball.add_argument("--quick", action="store_true", help="a sample")
    in_ball.add_argument("--out", type=Path)
    parsers.add_parser("ball-page")
    by_width = parsers.add_parser("widths")
    by_width.add_argument("--widths", nargs="+", type=int, default=(), help="these alone")
    by_width.add_argument("--calls", nargs="+", default=(), help="these alone")
    by_width.add_argument("--out", type=Path)
    parsers.add_parser("widths-page")
    parsers.add_parser("long-axes").add_argument("--out", type=Path, required=True)
    parsers.add_parser("long-axes-page")
    parsers.add_parser("launches")
    first_calls = parsers.add_parser("jax-first-calls")
    first_calls.add_argument("--functions", nargs="+", default=(), help="these alone")
    first_calls.add_argument("--out", type=Path)
    parsers.add_parser("jax-first-calls-page")
    of_starts = parsers.add_parser("starts")
    of_starts.add_argument("--before", required=True, help="a commit that is measured in the same turns")
    of_starts.add_argument("--out", type=Path, required=True)
    networks = parsers.add_parser("networks")
    for option in ("--networks", "--methods"):
        networks.add_argument(option, nargs="+", default=(), help="these alone")
    networks.add_argument("--out", type=Path, required=True)
    parsers.add_parser("networks-page")
    return commands


def main(words: list[str] | None = None) -> int:
    options = _parser().parse_args(words)
    if options.command in ("run", "gpu") and options.here:
        torch.set_num_threads(options.threads or torch.get_num_threads())
        suite.write(options.size == "smoke", options.sections, options.libraries, options.out, options.add)
    elif options.command == "run":
        _run_under_each(options)
    elif options.command.startswith("constraint"):
        _constraint(options)
    elif options.command == "ball":
        from benchmarks import ball  # which needs scikit-learn

        ball.write(options.quick, options.out)
    elif options.command == "ball-page":
        from benchmarks import ball_page

        ball_page.write()
    elif options.command.startswith("networks"):
        _networks(options)
    elif options.command.startswith("widths"):
        _widths(options)
    elif options.command.startswith("long-axes"):
        _long_axes(options)
    elif options.command.startswith("jax-first-calls"):
        from benchmarks import jax_first_calls

        if options.command == "jax-first-calls":
            jax_first_calls.write(options.functions, options.out)
        else:
            jax_first_calls.show()
    elif options.command == "starts":
        from benchmarks import starts

        starts.write(options.before, options.out)
    elif options.command == "launches":
        from benchmarks import launches

        launches.show()
    elif options.command == "page":
        page.write(options.file)
    else:
        losses = page.slower(read(options.new), read(options.file))
        print("\n".join(losses) or "nothing got slower than noise allows")
        return int(bool(losses))
    return 0


def _run_under_each(options: argparse.Namespace) -> None:
    """Run the suite under each instruction set in turn; its lines tell what their ratios were before."""
    words = ["run", "--here", "--size", options.size, "--threads", str(options.threads)]
    for option in ("sections", "libraries"):
        chosen = getattr(options, option)
        words += [f"--{option}", *chosen] if chosen else []
    before = read(options.before)
    out = options.out.resolve() if options.out else None
    for number, name in enumerate(options.instructions):
        more = ["--out", str(out)] if out else []
        more += ["--add"] if number or options.add else []
        instructions.run([*words, *more], name, options.threads)
    if out:
        write(out, page.with_past(read(out), before))


def _constraint(options: argparse.Namespace) -> None:
    if options.command == "constraint":
        from benchmarks import constraint  # which needs JAX and Optax too

        torch.set_num_threads(1)
        if options.quick:
            constraint.quick(options.out)
        else:
            constraint.write(
                options.loops, options.methods, options.seeds, options.steps, options.out, each_step=options.each_step
            )
        constraint_page.renew(options.out)
    elif options.command == "constraint-cost":
        from benchmarks import constraint_cost

        constraint_cost.write(options.quick, options.out)
        constraint_page.renew(options.out)
    elif options.command == "constraint-long":
        from benchmarks import long_loops

        long_loops.write(options.out)
        constraint_page.renew(options.out)
    elif options.command == "constraint-gpu":
        from benchmarks import constraint_gpu

        constraint_gpu.write(options.out)
        constraint_page.renew(options.out)
    else:
        constraint_page.write()


def _widths(options: argparse.Namespace) -> None:
    from benchmarks import widths

    if options.command == "widths":
        widths.write(options.widths, options.calls, options.out)
    else:
        widths.write_page()


def _long_axes(options: argparse.Namespace) -> None:
    from benchmarks import long_axes

    if options.command == "long-axes":
        long_axes.write(options.out)
    else:
        long_axes.write_page()


def _networks(options: argparse.Namespace) -> None:
    from benchmarks import networks

    if options.command == "networks":
        networks.write(options.networks, options.methods, options.out)
    else:
        networks.write_page()


if __name__ == "__main__":
    sys.exit(main())
