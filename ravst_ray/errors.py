"""Errors with one root; every one survives pickling, because they cross process borders."""

from __future__ import annotations


class RavstError(Exception):
    """Root of every error that this package raises on purpose. The message is for the user and says what to do."""


class ConfigError(RavstError):
    """A configuration, or a place that it names, can't be used. Ends a run before it starts (exit status 2)."""


class AbortError(RavstError):
    """The run can't go on (exit status 1). What is committed stays, the same command goes on from there."""


class BadBatchError(AbortError):
    """The groups at hand can't be learned from. Who has all of them saves them, and says where."""


class WorkerDiedError(AbortError):
    """A learner worker's process is gone: killed, out of memory, or its machine was lost."""


class BrokenTransferError(AbortError):
    """An engine fell out while weights came from the learner's card. Another takes its place; they can be sent anew."""


class StepError(RavstError):
    """One video can't be processed by one step; it becomes a row in ``errors/`` and the run goes on.

    Args:
        reason: short stable key, lower_snake_case, by which errors are counted (``"no_video_stream"``).
        message: one plain sentence for people.
        retryable: True when the same command may succeed later (an endpoint that was down).
    """

    def __init__(self, reason: str, message: str, retryable: bool = False):
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retryable = retryable

    def __reduce__(self):
        return type(self), (self.reason, self.message, self.retryable)
