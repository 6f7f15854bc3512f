"""What texts and code may say: the field's words, no path of a machine, the right name to install."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_house import CORE, ROOT, parsed

GIVEN_UP = {
    r"(lower|upper|proven)[ _]ends?": "bound, bounds",
    r"climb(s|ed|ing|ers?)?": "local ascent, iterates",
    r"look(s|ed)?[ _]around": "multistart",
    r"sift(s|ed|ing)?": "prefilter",
    r"rul(e|es|ed|ing) (\w+ ){0,3}out": "prune, fathom",
    r"settle[sd]?": "evaluate exactly, converge, resolve",
    r"scouts?|crew|abreast|lookouts?": "subspace iteration, state layout, block size, sample frequencies",
    r"hastened|stir(s|red|ring)?": "extrapolated, change",
    r"swells?|swollen|swelling": "amplified",
    r"needless(ly)?|doomed|heats": "duplicate, successive halving",
    r"endless(ly)?": "unbounded",
    r"poison(s|ed|ing)?": "NaN mask",
    r"modules whole|placements?": "network, devices",
}
"""What is not said in any sense -> what is said instead."""

RETIRED = re.compile(
    "peaks?|looks?|hints?|reach|owners?|rough|narrowed|widens?|rooms?|prices?|paid|goals?|pulls?|fold(s|ed|ing)?|copies|"
    "sees|adopts?|shares|usage|moves|heat"
)
"""Words of no name in the engines, where each had a sense of its own; elsewhere some have an ordinary one."""

ENGINES = ("certified", "methods", "numerics", "runtime", "search", "tensor")
PATTERN = re.compile(rf"\b({'|'.join(GIVEN_UP)})\b", re.IGNORECASE)
EXCEPT = {"docs/changelog.md", "tests/test_words.py"}
"""What was renamed, and this list."""

SECTION = re.compile(r"^ *(Parameters|Returns|Yields|Raises|Notes|References) -{3,}", re.MULTILINE)


def repository_texts() -> Iterator[tuple[str, str]]:
    """Every text file that is in git, or is about to be (untracked and not ignored)."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        try:
            yield name, path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue


def test_no_text_says_a_word_that_was_given_up() -> None:
    """Code, comments, tests and pages; data and pictures are not texts of ours."""
    found = [
        f"{name}:{text[: match.start()].count(chr(10)) + 1}: {match.group()}"
        for name, text in repository_texts()
        if name not in EXCEPT and Path(name).suffix in (".py", ".md", ".html", ".toml", ".yml")
        for match in PATTERN.finditer(text)
    ]
    assert not found, found


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of all that a module binds or uses."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "arg"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield getattr(node, "lineno", 0), value


def words(name: str) -> set[str]:
    """Of ``snake_case`` and ``CamelCase``."""
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


@pytest.mark.parametrize("engine", ENGINES)
def test_no_name_of_an_engine_has_a_retired_word(engine: str) -> None:
    for path in sorted(p for p in (CORE / engine).rglob("*.py") if "network" not in p.parts):
        found = [f"{line}: {name}" for line, name in names(parsed(path)) if any(map(RETIRED.fullmatch, words(name)))]
        assert not found, f"{path.relative_to(ROOT)}: {found}"


def test_headings_of_docstrings_stand_on_their_own_line() -> None:
    wrong = [name for name, text in repository_texts() if name.endswith(".py") and SECTION.search(text)]
    assert not wrong


def test_word_checks_can_fail() -> None:
    for said in ("raises the lower end", "upper_ends", "climbers", "rules cells out", "a first look around", "Endless"):
        assert PATTERN.search(said), said
    for said in ("both ends of the range", "the search ends", "a rule of thumb", "leaves it out", "climate"):
        assert not PATTERN.search(said), said
    assert words("_Peak_sqHint2") == {"peak", "sq", "hint"}
    assert not any(map(RETIRED.fullmatch, words("pullback_of_shared_unfoldings")))
    assert [name for _, name in names(ast.parse("def f(owner): self.goal_sq = 1"))] == ["f", "owner", "goal_sq", "self"]
    assert SECTION.search("    Raises ------ ValueError")
    assert not SECTION.search("    Raises\n    ------\n")


# -- paths and names -----------------------------------------------------------------------------------------------
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|root|home/\w+)/")
WRONG_INSTALL = re.compile(r"pip\s+install\s+(?:-\S+\s+)*[`'\"]?specnorm")


def test_no_text_holds_a_machine_path() -> None:
    found = [f"{name}: {m.group()}" for name, text in repository_texts() for m in MACHINE_PATH.finditer(text)]
    assert not found


def test_no_text_installs_from_an_index() -> None:
    """The name `specnorm` there is somebody else's, and `specnorm-bounds` on none yet: see `specnorm.text.SOURCE`."""
    found = [f"{name}: {m.group()}" for name, text in repository_texts() for m in WRONG_INSTALL.finditer(text)]
    assert not found


def test_text_checks_can_fail() -> None:
    assert MACHINE_PATH.search("see /" + "work/main")
    assert not MACHINE_PATH.search("a rate of work/" + "root/second")
    for wrong in ("specnorm", "specnorm[torch]", "'specnorm[cli]'", "-U specnorm", "'specnorm-bounds[cli]'"):
        assert WRONG_INSTALL.search("pip " + "install " + wrong), wrong
    for right in (".", "'.[torch]'", "./tests/thirdparty", "-e ."):
        assert not WRONG_INSTALL.search("pip " + "install " + right), right
