"""A vLLM engine as a Ray actor: samples groups, takes weights, sleeps while a learner needs its card."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import SamplingConfig
from ravst_ray.errors import AbortError
from ravst_ray.logs import get_logger, setup_logging
from ravst_ray.media.clips import Clip
from ravst_ray.policy.adapter import write_adapter
from ravst_ray.policy.engine import VideoLLM
from ravst_ray.policy.protocols import Generation
from ravst_ray.training.weight_check import Held

log = get_logger(__name__)
_WEIGHTS, _FILE = "ravst-weights-", ".safetensors"
_LEFT_S = 600.0
"""After so long a file of weights whose process is gone was left behind by it."""


@dataclass(frozen=True)
class Weights:
    """A version of the policy; ``state`` is a list of one reference to ``{name: array}`` in the object store.

    The arrays are a checkpoint's, or an adapter's alone (``TrainConfig.ships_adapter``).
    """

    version: int
    state: Any


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an actor tells of an update.

    Attributes:
        drained_s: seconds until running groups had ended.
        held: the weights that its engine has now.
        busy_s: seconds in which at least one group was being sampled, since it is there.
    """

    drained_s: float
    held: Held
    busy_s: float


class RolloutActor:
    """A vLLM engine in a Ray actor; its methods run side by side."""

    def __init__(self, config: TrainConfig):
        setup_logging()
        remove_left_weights(weights_folder())
        engine = config.engine.model_copy(update={"model": config.model})
        self._adapter = config.learner.lora if config.ships_adapter else None
        transport = None if config.transport == "object_store" else config.transport
        self._engine = VideoLLM(
            engine, trainable=True, transport=transport, sleeps=config.rollouts.share_gpu, adapter=self._adapter
        )
        self._level = config.rollouts.sleep_level
        self._busy_s, self._running, self._since = 0.0, 0, 0.0
        self._calls, self._called_at = 0, 0.0

    async def start(self, weights: Weights | None) -> None:
        """Load the model, sample a token, because an engine's first takes long, and take the current weights."""
        await self._engine.start()
        await self._engine.generate("?", None, SamplingConfig(max_tokens=1))
        if weights is not None:
            await self.set_weights(weights)

    async def sample(self, text: str, clip: Clip, sampling: SamplingConfig) -> Generation:
        """One group."""
        if not self._running:
            self._since = time.monotonic()
        self._running += 1
        try:
            with self._at_work():
                return await self._engine.generate(text, clip, sampling, logprobs=True)
        finally:
            self._running -= 1
            if not self._running:
                self._busy_s += time.monotonic() - self._since

    async def set_weights(self, weights: Weights) -> Loaded:
        """Load a version of the policy from the object store."""
        from safetensors.numpy import save_file

        path = weights_folder() / f"{_WEIGHTS}{os.getpid()}{'' if self._adapter else _FILE}"
        with self._at_work():
            state = await weights.state[0]
            try:
                if self._adapter is not None:
                    write_adapter(path, state, self._adapter)
                else:
                    save_file(state, path)
                return self._loaded(await self._engine.set_weights(str(path), weights.version))
            finally:
                _remove(path)

    async def join_transfer(self, info: dict[str, Any]) -> None:
        """Get ready for weights that come from the learner's card; ``info`` is vLLM's, of its trainer's side."""
        with self._at_work():
            await self._engine.join_transfer(info)

    async def begin_transfer(self, _: None) -> float:
        """End what is running and get ready to load; gives the seconds until running groups had ended."""
        with self._at_work():
            return await self._engine.begin_update()

    async def receive_transfer(self, info: dict[str, Any]) -> None:
        """Load what ``info`` (vLLM's) tells of."""
        with self._at_work():
            await self._engine.update(info)

    async def end_transfer(self, version: int) -> Loaded:
        """Sample with the new weights from here on."""
        with self._at_work():
            await self._engine.end_update(version)
        return self._loaded(0.0)

    def _loaded(self, drained_s: float) -> Loaded:
        busy_s = self._busy_s + (time.monotonic() - self._since if self._running else 0.0)
        return Loaded(drained_s, Held(*self._engine.weights), busy_s)

    async def weights(self) -> Held:
        """What weights the engine has."""
        return Held(*self._engine.weights)

    async def sleep(self) -> None:
        """Give the card's memory to the learner; the next weights wake the engine."""
        with self._at_work():
            await self._engine.sleep(self._level)

    async def quiet_s(self) -> float:
        """Seconds since the engine's last sign of life, or since it has work; 0 while it has none."""
        return time.monotonic() - max(self._called_at, self._engine.alive_at) if self._calls else 0.0

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        if not self._calls:
            self._called_at = time.monotonic()
        self._calls += 1
        try:
            with _ending_with_the_engine():
                yield
        finally:
            self._calls -= 1


@contextmanager
def _ending_with_the_engine() -> Iterator[None]:
    """End this process when its engine is dead: the pool starts another actor and gives it what this one had."""
    try:
        yield
    except AbortError as error:
        log.error("%s", error)
        os._exit(1)


def weights_folder() -> Path:
    """Where weights lie between the object store and the engine: in memory where there is such a folder."""
    return Path("/dev/shm") if os.path.isdir("/dev/shm") else Path("/tmp")


def remove_left_weights(folder: Path) -> None:
    """Remove the weights that killed actors left on this machine; of a large model they take much of its memory."""
    for path in folder.glob(f"{_WEIGHTS}*"):
        with suppress(OSError, ValueError):  # another's file, or somebody else was quicker
            pid = int(path.name.removeprefix(_WEIGHTS).removesuffix(_FILE))
            if time.time() - path.stat().st_mtime > _LEFT_S and not _alive(pid):
                _remove(path)


def _remove(path: Path) -> None:
    """A file of weights, or the folder of an adapter."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
