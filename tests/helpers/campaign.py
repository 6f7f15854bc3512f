"""Which tests notice which mistakes: ``python -m helpers.campaign OUT FILES KINDS PYTEST...`` in the folder ``tests``.

``FILES`` are files and folders below the project's root, with commas; ``KINDS`` are words of kinds, or "all". The tests
that pytest collects run once as they are, which says what each of them calls (kept beside ``OUT``, as ``.calls``). Then
each mistake is planted in a process of its own, in which the tests that call its function run, the fastest first. A
line of ``OUT`` has the mistake and the tests that failed; mistakes that have a line are not planted again.

``SPECNORM_CAMPAIGN_EVERY=n`` takes each n-th mistake, ``SPECNORM_CAMPAIGN_PART=i/n`` a part for one of n processes,
``SPECNORM_CAMPAIGN_SECONDS`` limits the time of each, so that one that waits forever ends, too (with JAX
processes do: name tests without it); with ``SPECNORM_CAMPAIGN_ALL`` no test is left out
because another one has failed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from _pytest.runner import runtestprotocol
from test_house import ROOT

from helpers.mutants import KINDS, Mistake, forget, functions_in, mistakes

Run = tuple[float, bool, list[str]]
"""Seconds of a test, whether it passed, and the functions that it called."""


class Campaign:
    """Runs tests, which pytest has collected, with mistakes."""

    def __init__(self, out: Path, files: Iterable[Path], kinds: Iterable[str]) -> None:
        self.out = out
        self.whole = "SPECNORM_CAMPAIGN_ALL" in os.environ
        self.seconds = int(os.environ.get("SPECNORM_CAMPAIGN_SECONDS", "60"))
        every = int(os.environ.get("SPECNORM_CAMPAIGN_EVERY", "1"))
        part, parts = map(int, os.environ.get("SPECNORM_CAMPAIGN_PART", "0/1").split("/"))
        found = mistakes((x for path in files for x in functions_in(path)), kinds)
        found = [x for x in found if crc32(str(x).encode()) % every == 0]
        self.targets = {place(x): str(x.function) for x in found}
        self.mistakes = found[part::parts]

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        runs = self.as_they_are(session.items)
        done = {tuple(json.loads(line)["id"]) for line in self.out.open()} if self.out.exists() else set()
        for mistake in self.mistakes:
            if (str(mistake), mistake.number) not in done:
                calling = [x for x in session.items if str(mistake.function) in runs.get(x.nodeid, (0, False, []))[2]]
                calling = sorted((x for x in calling if runs[x.nodeid][1]), key=lambda x: runs[x.nodeid][0])
                self.plant(mistake, calling)
        return True

    def as_they_are(self, items: list[pytest.Item]) -> dict[str, Run]:
        kept = self.out.with_suffix(".calls")
        if not kept.exists():
            with kept.open("w", encoding="utf-8") as file:
                for item in items:
                    file.write(json.dumps([item.nodeid, self.run(item)]) + "\n")
        return dict(json.loads(line) for line in kept.open(encoding="utf-8"))

    def run(self, item: pytest.Item) -> Run:
        called: set[str] = set()

        def note(frame: Any, event: str, _: object) -> None:
            if event == "call":
                code = frame.f_code
                called.add(self.targets.get((code.co_filename, code.co_qualname.partition(".<locals>")[0]), ""))

        forget()
        start = time.process_time()
        sys.setprofile(note)
        try:
            passed = passes(item)
        finally:
            sys.setprofile(None)
        return time.process_time() - start, passed, sorted(called - {""})

    def plant(self, mistake: Mistake, items: list[pytest.Item]) -> None:
        read, write = os.pipe()
        if os.fork() == 0:
            signal.alarm(self.seconds)
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            with mistake.planted(), os.fdopen(write, "w", buffering=1) as file:
                for item in items:
                    passed = passes(item)
                    file.write(f"{'passed' if passed else 'failed'} {item.nodeid}\n")
                    if not (passed or self.whole):
                        break
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as answer:
            lines = [line.rstrip("\n").split(" ", 1) for line in answer]
        _, status = os.wait()
        row: dict[str, Any] = {"id": [str(mistake), mistake.number], "of": len(items), "status": status}
        for word in ("failed", "passed"):
            row[word] = [name for how, name in lines if how == word]
        with self.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")


def place(mistake: Mistake) -> tuple[str, str]:
    return str(mistake.function.path), mistake.function.name


def passes(item: pytest.Item) -> bool:
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def main() -> None:
    out, files, kinds, *words = sys.argv[1:]
    paths = [path for each in files.split(",") for path in sorted((ROOT / each).rglob("*.py")) or [ROOT / each]]
    chosen = [kind for kind in KINDS if kinds == "all" or any(word in kind for word in kinds.split(","))]
    campaign = Campaign(Path(out), paths, chosen)
    sys.exit(pytest.main(["-n0", "-q", "-p", "no:cacheprovider", *words], plugins=[campaign]))


if __name__ == "__main__":
    main()
