"""Models of an object store: fetched once to a node, for all of its processes."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from ravst_ray.datasets.places import join
from ravst_ray.datasets.transfer import Stored, alone, at_once, files_under, receive
from ravst_ray.errors import ConfigError
from ravst_ray.logs import get_logger

log = get_logger(__name__)


def fetched_model(place: str, key: str) -> str:
    """The folder on this node with a model's files; they are fetched where they aren't there yet.

    It lies beside the hub's models (``$HF_HOME/ravst``), under a name that is another one once a file of the store has
    another size or time.

    Args:
        place: a URI of a folder.
        key: the configuration key that it came from, for the message.

    Raises:
        ConfigError: there is no model.
        AbortError: it can't be fetched.
    """
    from huggingface_hub.constants import HF_HOME

    files = files_under(place)
    if "config.json" not in files:
        raise ConfigError(f"{key}: {place.partition('?')[0]} holds no config.json; name a folder with a saved model")
    known = sorted((name, info.size, str(info.mtime)) for name, info in files.items())
    name = hashlib.sha256(repr((place, known)).encode()).hexdigest()[:24]
    folder = Path(HF_HOME) / "ravst" / name
    if folder.is_dir():
        return str(folder)
    with alone(folder.with_suffix(".lock")):
        if not folder.is_dir():
            log.info("fetching the model %s to %s", place.partition("?")[0], folder)
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            at_once(lambda one: receive(join(place, one), partial / one, Stored(files[one].size)), sorted(files))
            partial.replace(folder)
    return str(folder)
