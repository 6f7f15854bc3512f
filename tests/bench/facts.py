"""Where and when a figure was measured: what every file of figures says of itself."""

from __future__ import annotations

import platform
import re
import subprocess
import time
from pathlib import Path


def date() -> str:
    """Today."""
    return time.strftime("%Y-%m-%d")


def git(*words: str) -> str:
    """What a git command prints; nothing where there is none."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()


def commit() -> str:
    """Short name of the commit."""
    return git("rev-parse", "--short", "HEAD")


def processor() -> str:
    """Name of the processor, as Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
