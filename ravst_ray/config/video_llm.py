"""Configuration of the video-LLM: how a video is shown to it, how it answers, and the engine that runs it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ravst_ray.config.annotate import DecodeConfig, PoolConfig
from ravst_ray.config.base import ClusterConfig, Place, StrictModel


class FramesConfig(StrictModel):
    """Which frames the model sees, and how large. The published runs: one in 4 s, 3584 * 28 * 28 pixels a video."""

    step_s: float = Field(1.0, gt=0, description="seconds between frames; longer for videos of over max_frames")
    max_frames: int = Field(64, ge=2)
    uniform: bool = Field(False, description="max_frames frames of every video, step_s whatever that makes it")
    min_pixels: int = Field(16 * 28 * 28, ge=28 * 28, description="of one frame; smaller ones are scaled up")
    max_pixels: int = Field(768 * 28 * 28, ge=28 * 28, description="of one frame; larger ones are scaled down")
    total_pixels: int = Field(3584 * 28 * 28, ge=28 * 28, description="of all frames of a video together")
    multiple: int | None = Field(
        None, ge=1, description="pixels; both sides are multiples of it; null: as the model's family has it"
    )
    max_step_s: float | None = Field(
        None, gt=0, description="longer videos than that allows with max_frames are errors; null: what the family takes"
    )
    sound: Literal["auto", "own", "silence", "none"] = Field(
        "auto", description="beside the frames: the video's own sound (auto: if the model hears), silence, or nothing"
    )

    @property
    def multiple_px(self) -> int:
        """``multiple``; 28 as long as nobody has asked the model."""
        return self.multiple or 28

    @model_validator(mode="after")
    def _order(self) -> FramesConfig:
        if self.max_pixels < self.min_pixels:
            raise ValueError("max_pixels is below min_pixels")
        return self


class PromptConfig(StrictModel):
    """What the prompt asks for. Answers are converted back to seconds and pixels of the video in one place."""

    box_space: Literal["auto", "frame", "video", "thousand"] = Field(
        "auto",
        description="boxes in pixels of the frames shown, of the video, or in 1/1000; auto: as the model's family does",
    )
    integer_boxes: bool = Field(True, description="coordinates without decimals: far shorter answers")
    box_step_s: float = Field(
        1.0, ge=1.0, le=60.0, description="seconds between the boxes asked for; those between are interpolated"
    )
    state_grammar: bool = Field(
        True, description="say in the prompt how the answer is written; off for models tuned on it: shorter prompts"
    )
    as_task: str | None = Field(
        None, description="with verbatim: say how this task's answers are written, for models that were tuned on it"
    )
    think: bool = Field(False, description="ask for reasoning in <think> before the answer")
    verbatim: bool = Field(
        False, description="the question's own text alone, as benchmarks ask; the answer is kept as the model wrote it"
    )

    @property
    def space(self) -> Literal["frame", "video", "thousand"]:
        """``box_space``; the frames' as long as nobody has asked the model."""
        return "frame" if self.box_space == "auto" else self.box_space


class EngineConfig(StrictModel):
    """The vLLM engine."""

    model: Place = Field("Qwen/Qwen2.5-VL-7B-Instruct", description="hub name or directory")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: float32 on a CPU, bfloat16 on a GPU"
    )
    max_model_len: int = Field(16384, ge=64, description="tokens of prompt, frames and answer together")
    max_num_seqs: int = Field(32, ge=1, description="completions that are generated at once")
    tensor_parallel: int = Field(1, ge=1, description="GPUs of one engine")
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    cpu_kv_cache_gib: int = Field(1, ge=1, description="memory for the KV cache where there is no GPU")
    eager: bool | None = Field(None, description="without compilation and CUDA graphs; null: eager on a CPU alone")


class SamplingConfig(StrictModel):
    """How completions are drawn."""

    temperature: float = Field(0.0, ge=0, le=2, description="0: greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: all")
    n: int = Field(1, ge=1, description="completions of each question")
    max_tokens: int = Field(1024, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _samples_differ(self) -> SamplingConfig:
        if self.n > 1 and self.temperature == 0:
            raise ValueError("n > 1 completions would all be the same at temperature 0")
        return self


class PredictActorsConfig(StrictModel):
    """Who runs where; ``llm.num_gpus`` is set to ``engine.tensor_parallel`` where the cluster has GPUs."""

    decode: PoolConfig = PoolConfig()
    llm: PoolConfig = PoolConfig()


class PredictConfig(StrictModel):
    """Everything that ``ravst predict`` does."""

    engine: EngineConfig = EngineConfig()
    frames: FramesConfig = FramesConfig()
    prompt: PromptConfig = PromptConfig()
    sampling: SamplingConfig = SamplingConfig()
    decode: DecodeConfig = DecodeConfig()
    actors: PredictActorsConfig = PredictActorsConfig()
    cluster: ClusterConfig = ClusterConfig()
    videos_per_batch: int = Field(4, ge=1, description="videos whose questions an engine has at hand at once")
    limit: int | None = Field(None, ge=1, description="only the first so many questions, for a trial run")
