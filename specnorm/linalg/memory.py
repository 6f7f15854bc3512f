"""How much memory an algorithm may plan for."""

from __future__ import annotations

BUDGET = 256 * 2**20
"""Bytes of the temporaries of one chunk of work: the contract's. No figure depends on it but for rounding."""
