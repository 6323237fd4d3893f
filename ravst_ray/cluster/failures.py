"""What Ray raises, as a plain error: who died of what, in one sentence."""

from __future__ import annotations

import re

import ray
from ray.data.exceptions import ExecutionTimeoutError

from ravst_ray.errors import AbortError, ConfigError, RavstError

NO_PROGRESS_S = 6 * 3600.0
"""After so long without anything done a run ends. Ray's own half hour is less than spot GPUs may be away for."""
GRAPH_ERRORS = (ray.exceptions.RayError, ExecutionTimeoutError)
"""What an execution of a Ray dataset raises; for :func:`plain_error`."""
_OWN_ERROR = re.compile(r"ravst_ray\.errors\.(?P<kind>\w+Error): (?P<message>.+?)(?:\n\n|\Z)", re.DOTALL)


def plain_error(error: BaseException) -> RavstError:
    """Our own error, of which Ray brings the traceback's text but not the object; else the last line of Ray's."""
    if isinstance(error, ExecutionTimeoutError):
        return AbortError(
            f"nothing was done for {NO_PROGRESS_S / 3600:g} h: has the cluster room for each step, and are its nodes "
            "well? The same command goes on"
        )
    text = str(error)
    found = _OWN_ERROR.search(text)
    if found is None:
        return AbortError(text.strip().splitlines()[-1])
    kind = ConfigError if found["kind"] == "ConfigError" else AbortError
    return kind(found["message"].strip())
