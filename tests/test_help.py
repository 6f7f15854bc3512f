"""What the command line says of itself: help, and completion in the shells themselves."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

click = pytest.importorskip("click", reason="pip install '.[cli]'")
pytest.importorskip("rich", reason="pip install '.[cli]'")

from specnorm import cli, help  # noqa: E402 - after the checks above

ROOT = Path(__file__).parent.parent


def shown(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run([*arguments, "--help"]) == cli.OK
    return capsys.readouterr().out


# -- help --------------------------------------------------------------------------------------------------------
def test_help_of_audit_shows_every_option_once_under_a_heading(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown("audit", capsys=capsys)
    options = cli._application().commands["audit"].params
    names = [p.opts[-1] for p in options if isinstance(p, click.Option)]
    for name in [*names, "--help"]:
        assert len(re.findall(rf"^  (?:-h, )?{name}(?![-\w])", text, re.MULTILINE)) == 1, name
    headings = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert headings == [*help.GROUPS, "Other options"]


def test_examples_of_the_help_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [shlex.split(line)[1:] for line in help.EXAMPLES.splitlines() if line.startswith("  specnorm ")]
    assert len(examples) > 2
    monkeypatch.chdir(tmp_path)
    for command, *arguments in examples:
        cli._application().commands[command].make_context("specnorm", arguments)
    with pytest.raises(click.UsageError):
        cli._application().commands["audit"].make_context("specnorm", ["a.npz", "--no-such-option"])


# -- completion --------------------------------------------------------------------------------------------------
BASH = """
source specnorm.bash
COMP_WORDS=({words}); COMP_CWORD={last}
_specnorm_completion specnorm
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
ZSH = """
compdef() {{ :; }}
_describe() {{ print -rl -- ${{(P)3}}; }}
compadd() {{ local name=$@[-1]; print -rl -- ${{(P)name}}; }}
source specnorm.zsh
words=({words}); CURRENT={count}
_specnorm_completion
"""
FISH = """
source specnorm.fish
complete -C '{line}'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completed(shell: str, words: list[str], folder: Path) -> list[str]:
    """What a shell offers for the last of some words, by the script that `specnorm completion` prints."""
    program = folder / "specnorm"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m specnorm "$@"\n')
    program.chmod(0o755)
    paths = [str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join(paths)}

    def run(command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (folder / f"specnorm.{shell}").write_text(run(["specnorm", "completion", shell]))
    quoted = " ".join(word or "''" for word in words)
    script = SCRIPTS[shell].format(words=quoted, last=len(words) - 1, count=len(words), line=" ".join(words))
    lines = run([shell, "-c", script]).splitlines()
    return sorted({re.split(r"[\t:]", line)[0] for line in lines if line})


@pytest.mark.parametrize("shell", help.SHELLS)
def test_completion_in_the_shell(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert completed(shell, ["specnorm", "a"], tmp_path) == ["audit"]
    assert completed(shell, ["specnorm", "audit", "--format", "j"], tmp_path) == ["json"]
    assert completed(shell, ["specnorm", "audit", "--fail"], tmp_path) == ["--fail-above", "--fail-above-network"]
    assert set(completed(shell, ["specnorm", ""], tmp_path)) == {"audit", "backends", "certify", "completion", "verify"}
