"""What the command line says of itself."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

click = pytest.importorskip("click", reason="pip install '.[cli]'")

from specnorm_audit import cli  # noqa: E402 - after the check above

ROOT = Path(__file__).parents[2]


def test_examples_of_the_help_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [shlex.split(line)[1:] for line in cli.EXAMPLES.splitlines() if line.startswith("  specnorm ")]
    assert len(examples) > 2
    monkeypatch.chdir(tmp_path)
    for command, *arguments in examples:
        cli.application.commands[command].make_context("specnorm", arguments)
    with pytest.raises(click.UsageError):
        cli.application.commands["audit"].make_context("specnorm", ["a.npz", "--no-such-option"])


def test_exit_codes_of_the_help_are_those_of_the_page() -> None:
    """And both are the program's."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = page[page.index("### Exit codes") :]
    table = dict(re.findall(r"^\| (\d+) \| (.*) \|$", section, re.MULTILINE))
    said = dict(re.findall(r"^  (\d+) +(.*)$", cli.EXIT_CODES, re.MULTILINE))
    assert {code: re.sub(r"[`*]", "", text).partition(";")[0] for code, text in table.items()} == said
    assert {int(code) for code in said} == {cli.OK, cli.GATE_FAILED, cli.TROUBLE, cli.INTERRUPTED}


def test_shells_complete_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """By click's own scripts, which ask the program so."""
    for words, last in (("specnorm a", "audit"), ("specnorm audit --format j", "json")):
        monkeypatch.setenv("_SPECNORM_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        with pytest.raises(SystemExit):
            cli.run([])
        assert capsys.readouterr().out.split() == [f"plain,{last}"]
