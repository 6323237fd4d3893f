"""A vLLM engine as a Ray actor: samples groups, takes weights, sleeps while a learner needs its card."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ravst_ray.backends.protocols import Clip, Generation
from ravst_ray.backends.video_llm import VideoLLM
from ravst_ray.config.train import TrainConfig
from ravst_ray.config.video_llm import SamplingConfig
from ravst_ray.errors import AbortError
from ravst_ray.logs import get_logger, setup_logging

log = get_logger(__name__)


@dataclass(frozen=True)
class Weights:
    """A version of the policy; ``state`` is a list of one reference to ``{name: array}`` in the object store."""

    version: int
    state: Any


class RolloutActor:
    """A vLLM engine in a Ray actor; its methods run side by side."""

    def __init__(self, config: TrainConfig):
        setup_logging()
        engine = config.engine.model_copy(update={"model": config.model})
        self._engine = VideoLLM(engine, transport=config.transport, sleeps=config.rollouts.share_gpu)
        self._level = config.rollouts.sleep_level
        self._busy_s, self._running, self._since = 0.0, 0, 0.0

    async def start(self, weights: Weights | None) -> None:
        """Load the model, bring it to the current weights."""
        await self._engine.start()
        if weights is not None:
            await self.set_weights(weights)

    async def sample(self, text: str, clip: Clip, sampling: SamplingConfig) -> Generation:
        """One group."""
        if not self._running:
            self._since = time.monotonic()
        self._running += 1
        try:
            return await self._engine.generate(text, clip, sampling, logprobs=True)
        except AbortError as error:
            log.error("%s", error)
            os._exit(1)  # the pool starts another actor and gives it the prompt
        finally:
            self._running -= 1
            if not self._running:
                self._busy_s += time.monotonic() - self._since

    async def set_weights(self, weights: Weights) -> None:
        """Load a version of the policy from the object store."""
        from safetensors.numpy import save_file

        state = await weights.state[0]
        folder = Path("/dev/shm") if os.path.isdir("/dev/shm") else Path("/tmp")
        path = folder / f"ravst-weights-{os.getpid()}.safetensors"
        try:
            save_file(state, path)
            await self._engine.set_weights(str(path), weights.version)
        finally:
            path.unlink(missing_ok=True)

    async def join_transfer(self, info: dict[str, Any]) -> None:
        """Get ready for weights that come from the learner's card; ``info`` is vLLM's, of its trainer's side."""
        await self._engine.join_transfer(info)

    async def begin_transfer(self, _: None) -> None:
        """End what is running and get ready to load."""
        await self._engine.begin_update()

    async def receive_transfer(self, info: dict[str, Any]) -> None:
        """Load what ``info`` (vLLM's) tells of."""
        await self._engine.update(info)

    async def end_transfer(self, version: int) -> None:
        """Sample with the new weights from here on."""
        await self._engine.end_update(version)

    async def sleep(self) -> None:
        """Give the card's memory to the learner; the next weights wake the engine."""
        await self._engine.sleep(self._level)

    async def busy_s(self) -> float:
        """Seconds in which at least one group was being sampled."""
        return self._busy_s + (time.monotonic() - self._since if self._running else 0.0)
