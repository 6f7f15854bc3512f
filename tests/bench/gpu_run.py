"""Everything that is measured on a GPU, in one command that ends within its time: ``python -m bench gpu --out FILE``.

Each part is a process of its own with a limit, so that one that fails, hangs or takes the GPU down with it hides no
other; and the file is written anew with every row, so that it holds what was measured whenever it ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bench import facts

Row = dict[str, Any]
LIBRARIES = ("torch", "cupy", "jax")
ROUNDS: tuple[tuple[tuple[str, str, float], ...], ...] = (
    (("machine", "torch", 60),),
    (("conformance", "torch", 60), ("conformance", "cupy", 60)),
    (("shapes", "torch", 60),),
    (("training", "torch", 40),),
    (("suite", "torch", 50),),
    (("shapes", "cupy", 40),),
    (("suite", "cupy", 40),),
    (("suite", "jax", 60),),
    # JAX compiles for each shape: a minute or two of checks, beside the tests.
    (("conformance", "jax", 240), *(("tests", library, 240) for library in LIBRARIES)),
)
"""Parts with their libraries and limits in seconds, the most important first; those of a round run at the same time."""


@dataclass
class Book:
    """The file: every row, whenever it is read.

    Parameters
    ----------
    path : Path
    about : dict
        What each row also says.
    """

    path: Path
    about: Row
    rows: list[Row] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, row: Row) -> None:
        """Add a row: a whole new file in place of the old one."""
        with self._lock:
            self.rows.append({**row, **self.about})
            new = self.path.with_suffix(".new")
            new.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
            new.replace(self.path)
            print(said(row), flush=True)


def said(row: Row) -> str:
    """A row for the terminal."""
    told = row.get("error") or row.get("missing")
    if told is None:
        told = f"{1e3 * row['seconds']:.2f} ms" if "seconds" in row else ""
    return f"{row['part']:12s} {row['library']:6s} {row.get('what', ''):40s} {told}"


def collect(command: Sequence[str], limit: float, write: Callable[[Row], None], blank: Row) -> None:
    """Run a part, write its rows as they come, and one that says why where it does not end well."""
    if limit <= 0:
        write({**blank, "error": "not begun: the time was up"})
        return
    late = threading.Event()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True, env=environment()
        )

        def stop() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit, stop)
        timer.start()
        try:
            for line in process.stdout or ():
                if line.startswith("{"):
                    write(json.loads(line))
            code = process.wait()
        finally:
            timer.cancel()
        if late.is_set():
            write({**blank, "error": f"not done within {limit:.0f} s"})
        elif code:
            write({**blank, "error": f"ended with code {code}: {last_line(errors)}"})


def last_line(errors: IO[str]) -> str:
    """What a process said last."""
    errors.seek(0)
    return next((line.strip()[-300:] for line in reversed(errors.readlines()) if line.strip()), "it said nothing")


def environment() -> dict[str, str]:
    """JAX takes the memory that it needs, since CuPy and torch are there too."""
    return {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_ENABLE_X64": "1"}


def run(out: Path, device: str, size: str, minutes: float, parts: Sequence[str] | None = None) -> list[Row]:
    """Every round in turn, until the time is up."""
    end = time.monotonic() + 60 * minutes
    about = {"date": facts.date(), "commit": facts.commit(), "device": device, "size": size}
    book = Book(out, about)
    for every in ROUNDS:
        threads = []
        for part, library, most in every:
            if parts is None or part in parts:
                command = [sys.executable, "-m", "bench.gpu", part, library, "--device", device, "--size", size]
                limit = min(most, end - time.monotonic())
                blank = {"part": part, "library": library, "what": "all"}
                threads.append(threading.Thread(target=collect, args=(command, limit, book.write, blank)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return book.rows
