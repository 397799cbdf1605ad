"""The catalogue of base models: the operator's YAML file that maps ids to sources.

Requests refer to base models by these ids only, never by a path, a package or a repository.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from app.base_models.suggestions import hint_for
from app.core.errors import NotFoundError, ServiceError
from app.domain.spec import BASE_MODEL_ID
from app.domain.training_spec import MAX_TEMPLATE_BYTES

DEFAULT_CATALOGUE = Path(__file__).with_name("catalogue.yaml")
MAX_CATALOGUE_BYTES = 1 << 20

_DIST = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_PACKAGE = re.compile(rf"({_DIST})==([A-Za-z0-9][A-Za-z0-9.+!_-]*)/([A-Za-z0-9_][A-Za-z0-9_./-]*)")
_REPO_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB = re.compile(rf"({_REPO_PART}/{_REPO_PART})@([A-Za-z0-9][A-Za-z0-9._/-]{{0,254}})")


class CatalogueError(ServiceError):
    """The operator's catalogue is not valid; ``detail`` names entry and field of each error."""

    code = "bad_catalogue"
    title = "The base model catalogue is not valid"
    is_public = False


class UnknownBaseModelError(NotFoundError):
    """The catalogue has no base model with this id."""

    code = "base_model_not_found"
    title = "No such base model"
    next_step = "Choose an id from `GET /v1/base-models`."


@dataclass(frozen=True)
class PackageSource:
    """A directory inside a Python package: ``package:dist==version/path/in/wheel``."""

    kind: ClassVar[str] = "package"
    dist: str
    version: str
    subdir: str

    def __str__(self) -> str:
        return f"package:{self.dist}=={self.version}/{self.subdir}"


@dataclass(frozen=True)
class LocalSource:
    """A directory on the workers: ``local:/absolute/path``."""

    kind: ClassVar[str] = "local"
    path: Path

    def __str__(self) -> str:
        return f"local:{self.path}"


@dataclass(frozen=True)
class HubSource:
    """A hub repository: ``hub:org/name@revision``; the revision is a branch, tag or commit."""

    kind: ClassVar[str] = "hub"
    repo: str
    revision: str

    def __str__(self) -> str:
        return f"hub:{self.repo}@{self.revision}"


Source = PackageSource | LocalSource | HubSource


def parse_source(text: object) -> Source:
    """Parse a source.

    Raises:
        ValueError: The source has none of the three forms. The message lists them.
    """
    if not isinstance(text, str):
        raise ValueError("should be a string: package:…, local:… or hub:…")
    kind, _, rest = text.partition(":")
    if ".." in rest:
        raise ValueError("must not contain '..'")
    if kind == "package" and (match := _PACKAGE.fullmatch(rest)):
        return PackageSource(match[1], match[2], str(PurePosixPath(match[3])))
    if kind == "hub" and (match := _HUB.fullmatch(rest)) and "--" not in match[1]:
        return HubSource(match[1], match[2])
    if kind == "local" and rest.startswith("/") and "\x00" not in rest:
        return LocalSource(Path(rest))
    raise ValueError(
        "should be package:<dist>==<version>/<directory in the wheel>, local:<absolute directory> "
        "or hub:<org>/<name>@<revision>"
    )


def _check_length(template: str) -> str:
    if len(template.encode()) > MAX_TEMPLATE_BYTES:
        raise ValueError(f"should be at most {MAX_TEMPLATE_BYTES} bytes")
    return template


class BaseModelEntry(BaseModel):
    """One base model of the catalogue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    source: Annotated[Source, BeforeValidator(parse_source)]
    description: str = Field("", max_length=500)
    license: str | None = Field(None, max_length=200)
    chat_template: Annotated[str, AfterValidator(_check_length)] | None = Field(
        None, description="Jinja template that replaces the tokenizer's chat template."
    )
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="Expected sha256 of model.safetensors."
    )

    @property
    def other_names(self) -> list[str]:
        """Public names of the model besides its id."""
        match self.source:
            case HubSource(repo, _):
                return [repo]
            case PackageSource(dist, _, _):
                return [dist]
            case LocalSource():
                return []


class Catalogue:
    """The base models of one catalogue file, in the order of the file."""

    def __init__(self, entries: Mapping[str, BaseModelEntry]) -> None:
        self._entries = dict(entries)

    @property
    def entries(self) -> list[BaseModelEntry]:
        """All entries."""
        return list(self._entries.values())

    def get(self, base_model_id: str) -> BaseModelEntry:
        """Return the entry with this id, or raise UnknownBaseModelError."""
        if entry := self._entries.get(base_model_id):
            return entry
        raise UnknownBaseModelError(
            f"The catalogue has no base model {base_model_id[:80]!r}.",
            hint=hint_for(base_model_id, {e.id: e.other_names for e in self.entries}),
        )


def load_catalogue(path: Path | None = None) -> Catalogue:
    """Read a catalogue file; without ``path``, the one in this package.

    Raises:
        CatalogueError: Names the file, and the entry and field of each error.
    """
    path = path or DEFAULT_CATALOGUE
    document = _read(path)
    errors, entries = [], {}
    for base_model_id, fields in document.items():
        try:
            entries[_ID.validate_python(base_model_id)] = BaseModelEntry.model_validate(
                {**_FIELDS.validate_python(fields), "id": base_model_id}
            )
        except ValidationError as error:
            errors += [f"{base_model_id}: {_message(details)}" for details in error.errors()]
    if errors:
        raise CatalogueError(f"{path}: " + "; ".join(errors))
    return Catalogue(entries)


_ID = TypeAdapter(Annotated[str, StringConstraints(pattern=BASE_MODEL_ID)])
_FIELDS = TypeAdapter(dict[str, Any])


def _message(details: Any) -> str:
    field = ".".join(str(part) for part in details["loc"])
    message = str(details["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}" if field else message


def _read(path: Path) -> dict[Hashable, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CATALOGUE_BYTES + 1)
        if len(text) > MAX_CATALOGUE_BYTES:
            raise CatalogueError(f"{path}: larger than {MAX_CATALOGUE_BYTES} bytes")
        document = yaml.load(text, Loader=_NoDuplicates)  # noqa: S506  a SafeLoader
    except (OSError, yaml.YAMLError, RecursionError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    if not isinstance(document, dict) or not document:
        raise CatalogueError(f"{path}: should map at least one base model id to an entry")
    return document


class _NoDuplicates(yaml.SafeLoader):
    """A safe loader that rejects duplicate keys, of which YAML would silently use the last one."""

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 - the signature of PyYAML
    ) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} occurs twice", node.start_mark
                )
        return super().construct_mapping(node, deep)
