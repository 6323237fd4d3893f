"""What Ray raises, as a plain error: who died of what, in one sentence.

Of an exception in another process Ray brings the traceback's text, often through several processes and wrapped in
errors of its own; the object is there only if it could be pickled, unpickled and subclassed. So the text is read::

    ray::RolloutManager.start() (pid=…)               who: the last one that is named before the exception
      File …
    ray.exceptions.ActorDiedError: The actor died … ray::RolloutActor.__init__() (pid=…)
      File …
    ValueError: no such layer                         what: the first line after the last frame, to the section's end

    The above exception was the direct cause …        sections; those of Ray's own errors come last and are left out
"""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.data.exceptions import ExecutionTimeoutError

from ravst_ray.errors import AbortError, ConfigError, RavstError, WorkerDiedError

NO_PROGRESS_S = 6 * 3600.0
"""After so long without anything done a run ends. Ray's own half hour is less than spot GPUs may be away for."""
GRAPH_ERRORS = (ray.exceptions.RayError, ExecutionTimeoutError)
"""What an execution of a Ray dataset raises; for :func:`plain_error`."""
MAX_MESSAGE = 600
_SECTIONS = re.compile(
    r"^(?:The above exception was the direct cause of the following exception|"
    r"During handling of the above exception, another exception occurred):\s*$",
    re.MULTILINE,
)
_FRAME = re.compile(r'^  File ".*', re.MULTILINE)
_RAISED = re.compile(
    r"^(?!ray::)(?P<kind>[A-Za-z_][\w.]*)(?:\(\w+\))?(?:: ?(?P<message>.*))?\Z", re.MULTILINE | re.DOTALL
)
_WRAPPED = re.compile(
    r"^(?P<kind>(?:ravst_ray\.errors|ray)\.[\w.]+)(?:\(\w+\))?: ?(?P<message>.*)\Z", re.MULTILINE | re.DOTALL
)
_WHO = re.compile(r"(?:ray::|class_name: )(?:MapWorker\(MapBatches\()?(\w+)")
_COLOURS = re.compile(r"\x1b\[\d+m")
_OUT_OF_MEMORY = "running low on memory"
_DEATH = re.compile(r"The (?:worker|actor) (?:died|is dead|\w+ is unavailable)")
_NODE_DIED = "its node has died"
_DETAIL = re.compile(r"Worker exit detail: (.+?)(?: Some common causes|$)", re.MULTILINE)
_OWN = "ravst_ray.errors."


@dataclass(frozen=True)
class Cause:
    """What a process died of.

    Attributes:
        kind: full name of the exception's class.
        message: of the exception, all lines.
        who: the actor's class or the task's function; empty where Ray doesn't name it.
    """

    kind: str
    message: str
    who: str = ""

    def __str__(self) -> str:
        """One line: class, message, who."""
        message = " ".join(self.message.split())
        if len(message) > MAX_MESSAGE:
            message = message[:MAX_MESSAGE] + " …"
        return f"{self.kind}: {message}".rstrip(": ") + (f" (in {self.who})" if self.who else "")


def plain_error(error: BaseException) -> RavstError:
    """Our own error where one was raised; else class and message of the exception that is behind all of Ray's."""
    if isinstance(error, ExecutionTimeoutError):
        return AbortError(
            f"nothing was done for {NO_PROGRESS_S / 3600:g} h: has the cluster room for each step, and are its nodes "
            "well? The same command goes on"
        )
    if isinstance(error, RavstError):
        return error
    text = _COLOURS.sub("", str(error)).strip()
    cause = root_cause(text)
    if cause is None:
        return AbortError(_death(text) or str(Cause(type(error).__qualname__, text)))
    if not cause.kind.startswith(_OWN):
        return AbortError(str(cause))
    return (ConfigError if cause.kind == f"{_OWN}ConfigError" else AbortError)(cause.message)


def ended_with(error: BaseException) -> RavstError:
    """As :func:`plain_error`; a WorkerDiedError where an actor's process just ended, perhaps with its node."""
    plain = plain_error(error)
    # What a living actor says of another one is for it to judge.
    died = isinstance(error, ray.exceptions.RayActorError) and not isinstance(error, ray.exceptions.RayTaskError)
    return WorkerDiedError(str(plain)) if died and root_cause(str(error)) is None else plain


def lost_with_node(error: BaseException) -> bool:
    """Whether an actor's node is gone: Ray says so, or, until it knows, that it can't reach the actor."""
    return isinstance(error, ray.exceptions.ActorUnavailableError) or (
        isinstance(error, ray.exceptions.RayActorError) and _NODE_DIED in str(error)
    )


@contextmanager
def crossing() -> Iterator[None]:
    """An exception that can't leave this process as it is leaves it as one of ours that says the same.

    Ray Train returns exceptions as objects. Of one that can't be unpickled only that would be told.
    """
    try:
        yield
    except Exception as error:
        try:
            pickle.dumps(copy.copy(error))  # a copy is made as unpickling would make it
        except Exception:  # whatever its author forgot
            raise AbortError(str(Cause(type(error).__qualname__, str(error)))) from error
        raise


def root_cause(text: str) -> Cause | None:
    """The exception behind what Ray raised, an error of our own before any other; None if a process just ended.

    Args:
        text: of Ray's exception.
    """
    found = list(_raised(_COLOURS.sub("", text)))
    own = [one for one in found if one.kind.startswith(_OWN)]
    chosen = own or found
    return chosen[-1] if chosen else None


def _raised(text: str) -> Iterator[Cause]:
    """The exceptions of a traceback's sections, but Ray's own."""
    who = ""
    for section in _SECTIONS.split(text):
        who = (_WHO.findall(section) or [who])[-1]
        frames = list(_FRAME.finditer(section))
        # Without frames, it is what an error of Ray's or ours says.
        raised = _RAISED.search(section, frames[-1].end()) if frames else _WRAPPED.search(section)
        if raised is None:
            continue
        message = (raised["message"] or "").strip()
        if raised["kind"].startswith("ray."):  # it may quote another process
            yield from _raised(message)
        else:
            yield Cause(raised["kind"], message, who)


def _death(text: str) -> str | None:
    """Of a process that left no exception; None if that isn't what Ray tells."""
    if _OUT_OF_MEMORY in text:
        return f"a process was ended because its node has no memory left ({text.splitlines()[0]}); start fewer of them"
    death = _DEATH.search(text)
    if death is None:
        return None
    who, detail = _WHO.findall(text), _DETAIL.search(text)
    said = detail[1] if detail else death[0]
    named = f"the process of {who[-1]}" if who else "a process"
    if _NODE_DIED in text:
        return f"{named} was lost with its node"
    return (
        f"{named} died without an exception (killed, out of memory, a crash in a library; its last log lines may "
        f"tell): {said}"
    )


def cause_of(error: Exception) -> RavstError:
    """Why Ray Train gave up: our own error if a worker raised one, else that a worker died, else what one raised."""
    causes = dict(getattr(error, "worker_failures", {})) or {0: error}
    for cause in causes.values():
        if isinstance(cause, RavstError) or "ravst_ray.errors." in str(cause):
            plain = plain_error(cause)
            return WorkerDiedError(str(plain)) if "errors.WorkerDiedError" in str(cause) else plain
    for rank, cause in causes.items():
        if type(cause).__name__ == "WorkerHealthCheckFailedError":  # others see a lost connection
            reason = root_cause(str(cause))
            return WorkerDiedError(f"learner worker {rank} died" + (f" of {reason}" if reason else ""))
    return ended_with(getattr(error, "controller_failure", next(iter(causes.values()))))
