"""What a shell may lack: a home that can be written, a short path for temporary files, a directory without modules.

Libraries take these for granted and fail with sentences of their own. Each gets a place that works, or a line in the
log says what to do. Only this process and those that it starts are concerned; the nodes of a cluster have their own.
"""

from __future__ import annotations

import getpass
import os
import secrets
import tempfile
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

from ravst_ray.errors import ConfigError
from ravst_ray.logs import get_logger

log = get_logger(__name__)
SOCKET_BYTES = 107
"""So long may the path of a socket be on Linux."""
_RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/dash_MetricsHead"
_OTHER_SOCKET = "/01234567-0123-0123-0123-012345678901"  # vLLM's; those of Python's processes are shorter
_SHORT = ("/tmp", "/dev/shm", "/var/tmp")


@cache
def prepare_surroundings() -> None:
    """Set what is missing in the environment, once; what is set on purpose stays.

    Raises:
        ConfigError: there is no place that could be taken instead.
    """
    _shorten_temporary()
    _write_elsewhere()
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # Ray's services would take a types.py in the working directory
    hidden = hidden_modules(Path.cwd())
    if hidden:
        log.warning(
            "Ray's workers look for modules in the working directory first, and take %s for those that are needed: "
            "start the run from another directory, or rename them",
            ", ".join(hidden),
        )


def hidden_modules(folder: Path) -> list[str]:
    """Files and packages of a folder that are named as modules which this process has from elsewhere.

    Example:
        >>> hidden_modules(Path("/proc"))
        []
    """
    found = []
    for path in sorted([*folder.glob("*.py"), *(place.parent for place in folder.glob("*/__init__.py"))]):
        spec = PathFinder.find_spec(path.stem)  # None of what is built in, which nothing hides
        if spec is not None and spec.origin is not None and not Path(spec.origin).is_relative_to(folder):
            found.append(path.name)
    return found


def _shorten_temporary() -> None:
    """Have Ray's files where the paths of its sockets are short enough, and all temporary files if need be."""
    ours = os.environ.get("TMPDIR") or "/tmp"
    rays = os.environ.get("RAY_TMPDIR") or ours
    variables = [
        name
        for name, place, socket in (("RAY_TMPDIR", rays, _RAY_SOCKET), ("TMPDIR", ours, _OTHER_SOCKET))
        if len(os.fsencode(place + socket)) > SOCKET_BYTES
    ]
    if not variables:
        return
    short = next((folder for folder in _SHORT if _can_write(Path(folder))), None)
    if short is None:
        raise ConfigError(
            f"temporary files: {rays} is too long for Ray's sockets; set RAY_TMPDIR to a directory that can be written "
            f"and whose path has at most {SOCKET_BYTES - len(_RAY_SOCKET)} characters"
        )
    for name in variables:
        os.environ[name] = short
    tempfile.tempdir = None  # looked up anew
    log.warning(
        "%s is too long for Ray's sockets (at most %d characters): this run has %s=%s",
        rays,
        SOCKET_BYTES - len(_RAY_SOCKET),
        " and ".join(variables),
        short,
    )


def _write_elsewhere() -> None:
    """Have caches and Ray's token made elsewhere where the home can't be written."""
    home = _home()
    if home is not None and _can_write(home):
        return
    folder = _own_folder()
    log.warning(
        "the home directory (%s) can't be written: caches are kept in %s; set HOME to one that can",
        home or "HOME is not set",
        folder,
    )
    if home is None or not (os.path.isdir(home) and os.access(home, os.R_OK | os.X_OK)):
        os.environ["HOME"] = str(folder)
    else:  # credentials, Ray's token and models may be there to be read
        models = home / ".cache" / "huggingface"
        if os.path.isdir(models):
            os.environ.setdefault("HF_HOME", str(models))
        known = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
        if not (known or os.environ.get("RAY_ADDRESS") or os.path.exists(home / ".ray" / "auth_token")):
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # a Ray that is started here would write one there
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TRITON_HOME"):
        os.environ.setdefault(name, str(folder))
    os.environ.setdefault("RAVST_CACHE", str(folder / "ravst_ray"))
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a user id without a name: torch's compiler asks for it
        os.environ["USER"] = str(os.getuid())


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # HOME isn't set, and the user has no entry
        return None


def _own_folder() -> Path:
    """A folder for caches that nobody else may write; the same at the next time if that can be."""
    folder = Path(tempfile.gettempdir()) / f"ravst-cache-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if folder.is_dir() and found.st_uid == os.getuid() and not found.st_mode & 0o022 and not folder.is_symlink():
            return folder
        return Path(tempfile.mkdtemp(prefix="ravst-cache-"))
    except OSError as error:
        raise ConfigError(
            f"neither the home directory nor {folder.parent} can be written ({error}); set HOME"
        ) from None


def _can_write(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
