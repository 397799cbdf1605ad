"""Recognise the shape of an upload from its first rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from app.datasets.options import ReadOptions
from app.datasets.shapes.mapping import check_columns, extended_shape, mapped_shape
from app.datasets.shapes.sample import Sample
from app.datasets.shapes.shape import Shape
from app.datasets.shapes.suggesting import unknown_shape
from app.datasets.shapes.table import SHAPES
from app.datasets.unused import plain_name


@dataclass(frozen=True)
class Recognised:
    """A shape, and the columns to rename first if only the case of their names differs."""

    shape: Shape
    rename: Mapping[str, str] = field(default_factory=dict)

    @property
    def conversions(self) -> list[Callable[[dict[str, Any]], dict[str, Any]]]:
        """Functions to apply to each row, in this order, before the shape reads it."""
        found: list[Callable[[dict[str, Any]], dict[str, Any]]] = []
        if self.rename:
            found.append(partial(renamed, rename=self.rename))
        if self.shape.convert is not None:
            found.append(self.shape.convert)
        return found


def recognise(sample: Sample, options: ReadOptions) -> Recognised:
    """Recognise the shape of an upload.

    Raises:
        FileError: ``missing_column`` if no shape fits; the message lists the columns and the hint
            suggests a mapping.
    """
    found = _recognised(sample)
    if options.columns or options.labels:
        if found is not None:
            named = _renamed_sample(sample, found.rename)
            check_columns(options.columns, Sample((*sample.rows, *named.rows)))
            if shape := extended_shape(found.shape, options, found.rename, named):
                return replace(found, shape=shape)
        return Recognised(mapped_shape(options, sample))
    if found is None:
        raise unknown_shape(sample)
    return found


def _recognised(sample: Sample) -> Recognised | None:
    found = next((shape for shape in SHAPES if shape.fits(sample)), None)
    if found is not None and _has_prompt(found, sample):
        return Recognised(found)
    rename = {name: plain_name(name) for name in sample.columns}
    if len(set(rename.values())) == len(rename):
        named = _renamed_sample(sample, rename)
        other = next((shape for shape in SHAPES if shape.fits(named)), None)
        if other is not None and (found is None or _has_prompt(other, named)):
            return Recognised(other, rename)
    return Recognised(found) if found is not None else None


def _has_prompt(shape: Shape, sample: Sample) -> bool:
    return any(map(sample.has, shape.parts_in(sample).prompt))


def _renamed_sample(sample: Sample, rename: Mapping[str, str]) -> Sample:
    return Sample(tuple((line, renamed(row, rename)) for line, row in sample.rows))


def renamed(row: dict[str, Any], rename: Mapping[str, str]) -> dict[str, Any]:
    """Return a row with its columns renamed."""
    return {rename.get(name, name): value for name, value in row.items()}
