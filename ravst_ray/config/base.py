"""Strict configuration: unknown keys fail, files are YAML, single values are set as ``key.sub=value``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ravst_ray.errors import ConfigError

C = TypeVar("C", bound="StrictModel")


class StrictModel(BaseModel):
    """A section of a configuration: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def load_config(kind: type[C], path: str | Path | None, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file and apply ``key.sub=value`` overrides (values are YAML too).

    Raises:
        ConfigError: the file is missing or no mapping, a key is unknown, or a value doesn't fit; the message
            names every key at fault.
    """
    data = _read_yaml(path) if path is not None else {}
    for override in overrides:
        _apply(data, override)
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
        clauses.append(f"{key}: unknown key" if unknown else f"{key}: {finding['msg']} (got {finding['input']!r})")
    return "; ".join(clauses)


def dump_config(config: BaseModel) -> str:
    """The resolved configuration as YAML, to be kept beside the results."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys, this is a {type(data).__name__}")
    return data


def _apply(data: dict[str, Any], override: str) -> None:
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
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: {error}") from None
