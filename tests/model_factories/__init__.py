"""Tiny models, preference pairs, orders and trainers for the tests and the benchmarks."""

from pathlib import Path

#: Root of the repository.
ROOT = Path(__file__).parents[2]
