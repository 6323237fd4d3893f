"""Strict configuration: unknown keys fail, files are YAML, single values are set as ``key.sub=value``.

A value on the command line is YAML, except where the setting is a text: that is taken as it was typed, so that
``output="/data/run #2"`` keeps its ``#2``. A number is decimal: ``seed=010`` is ten.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ravst_ray.errors import ConfigError

C = TypeVar("C", bound="StrictModel")

_DECIMAL = re.compile(r"[-+]?0\d+")


def _at_home(place: str) -> str:
    return str(Path(place).expanduser()) if place.startswith("~/") or place == "~" else place


Place = Annotated[str, AfterValidator(_at_home)]
"""A path, in which ``~`` is the home of whoever starts the run, or a URI."""


class StrictModel(BaseModel):
    """A section of a configuration: frozen, and closed to unknown keys.

    Of a section within it that is given in part, the rest is as that section's default here has it, which may differ
    from the defaults of its class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return given | {
            name: _completed(field.default, given[name])
            for name, field in cls.model_fields.items()
            if isinstance(field.default, StrictModel) and name in given
        }


class ClusterConfig(StrictModel):
    """Joining the cluster that ``$RAY_ADDRESS`` names; without one, Ray is started on this machine."""

    wait_s: float = Field(120.0, gt=0, description="how long the cluster may take to answer")


def _completed(default: Any, given: Any) -> Any:
    """A section as it is given, with what its default sets beyond the defaults of its class."""
    if not isinstance(default, StrictModel) or not isinstance(given, dict):
        return given
    kept = {name: getattr(default, name) for name in default.model_fields_set}
    return {**kept, **{name: _completed(kept.get(name), value) for name, value in given.items()}}


def load_config(kind: type[C], path: str | Path | None, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file and apply ``key.sub=value`` overrides.

    Raises:
        ConfigError: the file is missing or no mapping, a key is unknown, or a value doesn't fit; the message
            names every key at fault.
    """
    data = _read_yaml(path) if path is not None else {}
    for override in overrides:
        _apply(data, override, kind)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{path or 'configuration'}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """Pydantic's findings, one clause each: ``filter.max_event: unknown key``."""
    clauses = []
    for finding in error.errors():
        key = ".".join(str(part) for part in finding["loc"]) or "(top level)"
        unknown = finding["type"] == "extra_forbidden"
        whole = isinstance(finding["input"], dict)  # of a section that doesn't fit together: the message says what
        given = "" if whole else f" (got {finding['input']!r})"
        says = finding["msg"].removeprefix("Value error, ")  # of a check of our own
        clauses.append(f"{key}: unknown key" if unknown else f"{key}: {says}{given}")
    return "; ".join(clauses)


def dump_config(config: BaseModel) -> str:
    """The resolved configuration as YAML, to be kept beside the results."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys, this is a {type(data).__name__}")
    return data


def _apply(data: dict[str, Any], override: str, kind: type[BaseModel]) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{override!r}: expected key.sub=value")
    *parents, last = key.split(".")
    node = data
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{override!r}: {parent} is a value, not a section")
        node = child
    try:
        node[last] = _value(text, _annotation(kind, [*parents, last]))
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: {error}") from None


def _annotation(kind: Any, keys: Sequence[str]) -> Any:
    """The type of a setting; None where there is no such."""
    for key in keys:
        sections = [one for one in _plain(kind) if isinstance(one, type) and issubclass(one, BaseModel)]
        if not sections or key not in sections[0].model_fields:
            return None
        kind = sections[0].model_fields[key].annotation
    return kind


def _value(text: str, kind: Any) -> Any:
    """What a text on the command line means for a setting of this type."""
    kinds = set(_plain(kind))
    if str in kinds and kinds <= {str, type(None)}:
        return None if not text or (text in ("null", "~") and type(None) in kinds) else text
    return int(text) if _DECIMAL.fullmatch(text.strip()) else yaml.safe_load(text)


def _plain(kind: Any) -> Iterator[Any]:
    """The types that a setting may have."""
    if get_origin(kind) is Literal:
        yield from (type(value) for value in get_args(kind))
    elif get_origin(kind) is Annotated:
        yield from _plain(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for one in get_args(kind):
            yield from _plain(one)
    else:
        yield kind
