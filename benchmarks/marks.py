"""Tables that a program puts into a page of the documentation, between two marks."""

from __future__ import annotations


def put(page: str, begin: str, end: str, table: str) -> str:
    """The page with this table between its two marks."""
    head, found, rest = page.partition(begin)
    _, mark, tail = rest.partition(end)
    if not (found and mark):
        raise ValueError(f"the page has no place for the table: it lacks {begin!r} or {end!r}")
    return f"{head}{begin}\n{table}\n{end}{tail}"
