"""Configuration of the supervised update that comes before GRPO."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.config.base import ClusterConfig, Place, StrictModel
from ravst_ray.config.train import LoraConfig, TrainDataConfig
from ravst_ray.config.video_llm import FramesConfig, PromptConfig


class SftConfig(StrictModel):
    """Supervised fine-tuning on true answers; the loss counts their tokens alone."""

    rate: float = Field(1e-5, gt=0, description="learning rate")
    schedule: Literal["constant", "constant_with_warmup", "cosine", "linear"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epochs: float = Field(1.0, gt=0, description="passes over the examples")
    max_steps: int | None = Field(None, ge=1, description="optimizer steps; null: as many as the epochs take")
    batch: int = Field(16, ge=1, description="examples of one optimizer step, all workers together")
    micro_batch: int = Field(4, ge=1, description="examples of one forward")
    lora: LoraConfig | None = None
    freeze_vision: bool = Field(
        True, description="the towers (pictures, sound) stay as they are; their features are computed once per clip"
    )
    features_gib: float = Field(8.0, gt=0, description="main memory of one worker for features of clips")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: float32 on a CPU, else bfloat16")
    gradient_checkpointing: bool = False
    shard: bool = Field(False, description="FSDP2 in place of DDP")
    seed: int = 0

    @model_validator(mode="after")
    def _fits(self) -> SftConfig:
        if self.batch % self.micro_batch:
            raise ValueError("batch is no multiple of micro_batch")
        return self

    def steps(self, examples: int) -> int:
        """Optimizer steps of a run on so many examples."""
        return self.max_steps or math.ceil(self.epochs * examples / self.batch)


class SftRunConfig(StrictModel):
    """Everything that ``ravst train-sft`` does."""

    data: TrainDataConfig
    output: Place = Field(description="a directory that all nodes see, or a URI of an object store (s3://bucket/run)")
    scratch: Place | None = Field(
        None, description="folder of each node for what is on its way to an output in an object store; null: $TMPDIR"
    )
    model: Place = Field("Qwen/Qwen2.5-VL-7B-Instruct", description="hub name, directory or URI to start from")
    frames: FramesConfig = FramesConfig(step_s=4.0)
    prompt: PromptConfig = PromptConfig()
    decode: DecodeConfig = DecodeConfig()
    sft: SftConfig = SftConfig()
    workers: int = Field(1, ge=1, description="Ray Train workers, which share each batch")
    num_cpus: float = Field(1.0, ge=0, description="of one worker")
    num_gpus: float = Field(0.0, ge=0, description="of one worker")
    max_restarts: int = Field(1, ge=0, description="how often a run whose worker died begins anew at its checkpoint")
    save_every: int = Field(50, ge=1, description="optimizer steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="of the newest ones")
    decode_ahead: int = Field(64, ge=0, description="videos that each worker decodes ahead of its examples")
    clips_gib: float = Field(4.0, gt=0, description="object store for each worker's decoded videos")
    cluster: ClusterConfig = ClusterConfig()
