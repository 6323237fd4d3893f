"""What the benchmarks of rollouts and training share: a policy that never ends, its prompts, and peaks of memory."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray

from ravst_ray.config.video_llm import PromptConfig
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.media.clips import Clip
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.records import VideoView
from ravst_ray.tasks.rubric import Reward, Rubric
from ravst_ray.toyworld.training.policy import save_policy
from ravst_ray.training.rollout import RolloutManager

NOISE = "noise"
"""Name of a folder of videos that is empty: in their place come frames of noise."""
PROMPT = PromptConfig(state_grammar=False)
VIEW = VideoView(16, 0.5, 84, 56, 8.0, 84, 56)
LARGE = {"hidden": 1024, "layers": 8}
"""Sizes of a policy of 102 M parameters."""
END = "<|vision_pad|>"
"""The policy's end token: one that must not be sampled, so that every completion has as many tokens as are allowed."""


def same_terms(threads: int) -> None:
    """What processes started from here on compute with. Ray would make its workers nicer than a plain process is."""
    os.environ |= {"OMP_NUM_THREADS": str(threads), "RAY_worker_niceness": "0", "HF_HUB_OFFLINE": "1"}


def endless_policy(folder: Path, **sizes: Any) -> Path:
    """A random policy that never ends an answer by itself; made once and kept."""
    if not (folder / "whole").exists():
        from transformers import AutoTokenizer, GenerationConfig

        save_policy(folder, seed=0, **sizes)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.eos_token = END
        tokenizer.save_pretrained(folder)
        ends = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
        ends.save_pretrained(folder)  # vLLM stops at these ends too
        (folder / "whole").touch()
    return folder


def question(number: int) -> str:
    """One of endlessly many questions."""
    return f"When is the moment red ball {number} makes sound and is visible?"


def prompt_text(number: int) -> str:
    """The prompt of a question."""
    return question_prompt("AVTR", question(number), VIEW, PROMPT)


def actor_peaks_mib() -> list[float]:
    """Peak resident memory of the rollout actor and of each process under it, while it lives (Linux).

    Their sum is at least the peak of the whole; pages that they share count in each.
    """
    found = psutil.Process().children(recursive=True)
    (actor,) = [one for one in found if (one.cmdline() or [""])[0].startswith("ray::RolloutActor")]
    return [peak_mib(one.pid) for one in (actor, *actor.children(recursive=True))]


def peak_mib(pid: int | str = "self") -> float:
    """Peak resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def listed_mib(peaks: list[float]) -> str:
    """Peaks as ``4200 (1100 + 1000 + 2100)``."""
    return f"{sum(peaks):.0f} ({' + '.join(f'{peak:.0f}' for peak in peaks)})"


class VariedRubric(Rubric):
    """The real rewards, and a little for each kind of letter: else all answers of a random policy earn the same."""

    def score(
        self, task: str, completion: str, truth: str, truncated: bool = False, tokens: int | None = None
    ) -> Reward:
        """The reward of one completion."""
        reward = super().score(task, completion, truth, truncated, tokens)
        return replace(reward, total=reward.total + len(set(completion)) / 100)


class MadeUpManager(RolloutManager):
    """The rollout manager for prompts without video, or with noise in place of one: nothing is decoded."""

    async def start(self) -> None:
        """Start the engines."""
        self._rubric = VariedRubric(self._rubric.config, self._rubric.names)
        await super().start()

    async def _decode(self, task: VideoTask) -> tuple[Any, VideoView]:
        count = self._config.frames.max_frames if Path(self._config.data.videos).name == NOISE else 0
        if not count:
            return ray.put(None), VIEW
        rng = np.random.default_rng(zlib.crc32(task.video_id.encode()))
        frames = rng.integers(0, 256, (count, VIEW.height, VIEW.width, 3), dtype=np.uint8)
        return ray.put(Clip(task.video_id, frames, VIEW.step_s)), replace(VIEW, frames=count)
