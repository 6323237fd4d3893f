"""The settings of a run: where they lie, which of them must not change, and what they mean on other machines."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import yaml

from ravst_ray.config.annotate import AnnotateConfig
from ravst_ray.config.base import load_config
from ravst_ray.datasets.places import is_remote
from ravst_ray.datasets.store import DatasetStore
from ravst_ray.errors import ConfigError
from ravst_ray.language.chat import OPENAI_URL
from ravst_ray.logs import get_logger

log = get_logger(__name__)

_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray gives it to a submitted job, and to nobody else

# Settings that shape the rows. A run may not go on in a directory that was begun with others.
SHAPING = {
    "seed": None,
    "split": None,
    "filter": ("merge_overlapping", "events_per_video"),
    "questions": None,
    "quality": None,
    "decode": ("backend", "step_s", "max_side_px", "jpeg_quality"),
    "llm": ("backend", "model", "model_dir", "write_captions", "caption_frames"),
    "grounding": (
        "detector", "segmenter", "box_threshold", "text_threshold", "nms_iou", "detect_every", "match_iou",
        "keep_score", "max_missed", "chunk_frames", "masks", "track_step_s", "max_instances", "cut_score", "reidentify",
    ),
}  # fmt: skip


def saved_config(output: str, overrides: Sequence[str] = ()) -> AnnotateConfig:
    """The configuration that an output directory was made with.

    Raises:
        ConfigError: there is none, an override doesn't fit it, or a key would go where only this output says.
    """
    config = read_config(output, overrides)
    _check_endpoint(config, named={override.partition("=")[0] for override in overrides})
    return config


def read_config(output: str, overrides: Sequence[str] = ()) -> AnnotateConfig:
    """The same for who only reads, and calls no endpoint.

    Raises:
        ConfigError: there is none, or an override doesn't fit it.
    """
    data = DatasetStore(output).read_bytes("config.yaml")
    if data is None:
        raise ConfigError(f"{output}: no config.yaml there; is it the output of ravst annotate?")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_bytes(data)
        return load_config(AnnotateConfig, path, [*overrides, f"output={output}"])


def _check_endpoint(config: AnnotateConfig, named: Set[str]) -> None:
    """Refuse to send this environment's key to an endpoint that only the output names: others may have written it."""
    url, key = config.llm.base_url, os.environ.get("OPENAI_API_KEY", "").strip()
    known = os.environ.get("OPENAI_BASE_URL") or OPENAI_URL
    if config.llm.backend != "openai" or not url or not key or url.rstrip("/") == known.rstrip("/"):
        return
    if not named & {"llm", "llm.base_url"}:
        raise ConfigError(
            f"{config.output}/config.yaml would have your OPENAI_API_KEY sent to {url}; if that is right, say so: add "
            f"llm.base_url={url} to the command, or set OPENAI_BASE_URL to it"
        )


def absolute(config: AnnotateConfig) -> AnnotateConfig:
    """The configuration with whole paths: workers have other working directories, and so has who retries later.

    Raises:
        ConfigError: a relative output in a submitted job, whose working directory is removed with it.
    """
    if not is_remote(config.output) and not Path(config.output).is_absolute() and _JOB_VARIABLE in os.environ:
        raise ConfigError(
            f"output {config.output}: a submitted job's working directory is removed with the job; "
            "give s3://…, gs://… or an absolute path that every node sees"
        )
    places = {name: _whole(getattr(config.input, name)) for name in ("annotations", "videos")}
    given = config.input.model_copy(update=places)
    return config.model_copy(update={"input": given, "output": _whole(config.output)})


def _whole(place: str) -> str:
    return place if is_remote(place) else str(Path(place).absolute())


def check_same_settings(store: DatasetStore, config: AnnotateConfig, begun: bool) -> None:
    """Raise ``ConfigError`` when an output was begun (something is committed) with settings that give other rows."""
    before = store.read_bytes("config.yaml")
    if before is None or not begun:
        return
    try:
        saved = yaml.safe_load(before)
    except yaml.YAMLError:
        saved = None
    if not isinstance(saved, dict):
        log.warning("%s/config.yaml can't be read; it is written anew, without a comparison", config.output)
        return
    old, new = _shaping(saved), _shaping(config.model_dump(mode="json"))
    changed = [f"{key}: {old.get(key)!r} -> {value!r}" for key, value in new.items() if old.get(key) != value]
    if changed:
        raise ConfigError(
            f"output {config.output}: begun with other settings ({'; '.join(changed)}); "
            "choose another output, or go on with the old settings"
        )


def _shaping(config: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, keys in SHAPING.items():
        value = config.get(section)
        if isinstance(value, dict):
            flat |= {f"{section}.{key}": value.get(key) for key in keys or value}
        else:
            flat[section] = value
    return flat
