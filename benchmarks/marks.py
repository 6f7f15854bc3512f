"""Tables that a program puts into a page of the documentation, between two marks."""

from __future__ import annotations

from collections.abc import Mapping


def put_all(page: str, tables: Mapping[str, str]) -> str:
    """Return the page with each table between the two marks of its name; print the tables for which it has no marks."""
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        if begin in page:
            page = put(page, begin, end, table)
        else:
            print(f"\n{name}\n\n{table}")
    return page


def put(page: str, begin: str, end: str, table: str) -> str:
    """The page with this table between its two marks."""
    head, found, rest = page.partition(begin)
    _, mark, tail = rest.partition(end)
    if not (found and mark):
        raise ValueError(f"the page has no place for the table: it lacks {begin!r} or {end!r}")
    return f"{head}{begin}\n{table}\n{end}{tail}"
