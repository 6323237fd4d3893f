"""Configuration of ``ravst train``. Defaults are the paper's (AVST-Zero, arXiv 2511.16901) where it states one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ravst_ray.config.annotate import DecodeConfig
from ravst_ray.config.base import ClusterConfig, Place, StrictModel
from ravst_ray.config.rewards import RewardConfig
from ravst_ray.config.video_llm import EngineConfig, FramesConfig, PromptConfig

ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]


class TrainDataConfig(StrictModel):
    """What is learned from."""

    annotations: Place = Field(description="questions in the published R-AVST format: a path or a URI")
    videos: Place = Field(description="folder with {video name}.mp4: a path or a URI")
    limit: int | None = Field(None, ge=1, description="only the first so many questions, for a trial run")


class RolloutConfig(StrictModel):
    """How groups are sampled."""

    group_size: int = Field(6, ge=2, description="G: completions of one prompt")
    prompts_per_step: int = Field(4, ge=1, description="groups of one step, all learner workers together")
    temperature: float = Field(1.0, gt=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1, description="below 1 the learner's log-probs are no longer the sampler's")
    max_tokens: int = Field(1024, ge=1)
    overlong_tokens: int = Field(
        0, ge=0, description="a completion's reward falls over its last so many tokens before max_tokens, to 1 less"
    )
    actors: int = Field(1, ge=1, description="vLLM engines at the start")
    min_actors: int | None = Field(None, ge=1, description="idle ones leave down to so many; null: actors")
    max_actors: int | None = Field(None, ge=1, description="while prompts wait others join up to so many; null: actors")
    idle_s: float = Field(300.0, gt=0, description="how long an actor has nothing to do before it leaves")
    num_cpus: float = Field(1.0, ge=0, description="of one actor")
    num_gpus: float = Field(0.0, ge=0, description="of one actor; with tensor parallelism, of all its GPUs")
    share_gpu: bool = Field(False, description="on the learner's cards; engines sleep while it computes")
    sleep_level: Literal[1, 2] = Field(
        1, description="1: a sleeping engine keeps its weights in main memory; 2: nowhere, all of them are sent anew"
    )
    max_staleness: int = Field(1, ge=0, description="how many updates old a group may be; 0: strictly on-policy")
    resample_equal: bool = Field(
        False, description="ask the next prompts of the order in place of groups whose rewards are all equal"
    )
    max_resamples: int = Field(4, ge=1, description="… at most so many for one group")
    clips_gib: float = Field(8.0, gt=0, description="of Ray's object store for clips that may be asked about again")
    timeout_s: float = Field(
        600.0, gt=0, description="an actor that has work and gives no token for so long is replaced"
    )
    max_restarts: int = Field(3, ge=0, description="how often each dead actor is started again")

    @property
    def bounds(self) -> tuple[int, int]:
        """The fewest and the most actors."""
        return self.min_actors or self.actors, self.max_actors or self.actors

    @model_validator(mode="after")
    def _ordered(self) -> RolloutConfig:
        fewest, most = self.bounds
        if not fewest <= self.actors <= most:
            raise ValueError(
                f"rollouts.actors = {self.actors} is not within min_actors = {fewest}, max_actors = {most}"
            )
        if self.overlong_tokens > self.max_tokens:
            raise ValueError(f"rollouts.overlong_tokens = {self.overlong_tokens} is above max_tokens")
        return self


class LoraConfig(StrictModel):
    """A low-rank adapter in place of full training."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LearnerConfig(StrictModel):
    """The policy update; names and meanings are TRL's."""

    workers: int = Field(1, ge=1, description="Ray Train workers, each with whole groups")
    num_cpus: float = Field(1.0, ge=0, description="of one worker")
    num_gpus: float = Field(0.0, ge=0, description="of one worker")
    max_restarts: int = Field(1, ge=0, description="how often a run whose worker died begins anew at its checkpoint")
    rate: float = Field(1e-6, gt=0, description="learning rate")
    schedule: Literal["constant", "constant_with_warmup", "cosine", "linear"] = "constant_with_warmup"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "dapo"
    scale_rewards: Literal["group", "batch", "none"] = "group"
    clip_low: float = Field(0.2, gt=0)
    clip_high: float | None = Field(
        None, gt=0, description="null: 0.2; with cispo, where it is the largest ratio itself: 5"
    )
    mask_truncated: bool = Field(False, description="learn nothing from completions that hit the token limit")
    importance_level: Literal["token", "sequence"] = Field(
        "token", description="of the ratio that is clipped; sequence is GSPO's: with loss grpo and clips near 3e-4"
    )
    kl: float = Field(0.0, ge=0, description="beta: weight of the KL divergence from the start model")
    iterations: int = Field(1, ge=1, description="mu: updates from the same groups")
    micro_batch: int = Field(
        6, ge=1, description="completions of one forward: whole groups, whose prompts are computed once, or equal parts"
    )
    correct_importance: bool = Field(True, description="weigh tokens by learner's / sampler's probability")
    importance_mode: ImportanceMode = Field(
        "token_truncate",
        description="of each token or of a whole completion; what is above the cap gets the cap (truncate) or 0 (mask)",
    )
    importance_cap: float = Field(2.0, gt=0)
    lora: LoraConfig | None = None
    freeze_vision: bool = Field(
        True, description="the towers (pictures, sound) stay as they are; their features are computed once per clip"
    )
    features_gib: float = Field(8.0, gt=0, description="main memory of one worker for features of clips")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: float32 on a CPU, else bfloat16")
    share_prompts: bool = Field(
        True, description="compute a prompt once for its G completions; off: once for each (shorter rows, more work)"
    )
    gradient_checkpointing: bool = False
    shard: bool = Field(False, description="FSDP2 in place of DDP")

    @property
    def upper_clip(self) -> float:
        """``clip_high``, null decided."""
        if self.clip_high is not None:
            return self.clip_high
        return 5.0 if self.loss == "cispo" else 0.2


class SyncConfig(StrictModel):
    """How new weights reach the engines, and what is checked."""

    transport: Literal["auto", "object_store", "nccl", "ipc"] = Field(
        "auto",
        description="auto: ipc on a shared card, nccl between whole cards, else (and for adapters) Ray's object store",
    )
    adapter: Literal["auto", "merged"] = Field(
        "auto",
        description="with learner.lora; auto: the adapter alone is sent, where vLLM takes it; merged: the whole model",
    )
    probe_every: int = Field(1, ge=0, description="compare log-probs on a probe after every so many syncs; 0: never")
    max_gap: float | None = Field(
        None,
        gt=0,
        description="median difference of log-probs that stops the run; null: 4 times that before the first update",
    )


class ValidationConfig(StrictModel):
    """Held-out questions, which the engines answer greedily every ``eval_every`` steps."""

    annotations: Place | None = Field(None, description="the questions, in the format of data.annotations")
    videos: Place | None = Field(None, description="folder of their videos; null: data.videos")
    limit: int | None = Field(None, ge=1, description="only so many of the questions, by hash")
    metric: str = Field(
        "reward", description="by which the best checkpoint is kept: reward, or TASK/metric as ravst evaluate has it"
    )
    patience: int | None = Field(None, ge=1, description="end after so many validations without a better one")


class TrainConfig(StrictModel):
    """Everything that ``ravst train`` does."""

    data: TrainDataConfig
    output: Place = Field(description="a directory that all nodes see, or a URI of an object store (s3://bucket/run)")
    scratch: Place | None = Field(
        None, description="folder of each node for what is on its way to an output in an object store; null: $TMPDIR"
    )
    model: Place = Field("Qwen/Qwen2.5-VL-7B-Instruct", description="hub name, directory or URI to start from")
    max_steps: int = Field(500, ge=1)
    seed: int = 0
    save_every: int = Field(50, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1)
    eval_every: int = Field(0, ge=0, description="steps between answers to the questions of validation; 0: never")
    engine: EngineConfig = EngineConfig(max_num_seqs=64)
    frames: FramesConfig = FramesConfig(step_s=4.0)
    prompt: PromptConfig = PromptConfig()
    decode: DecodeConfig = DecodeConfig()
    rollouts: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    learner: LearnerConfig = LearnerConfig()
    sync: SyncConfig = SyncConfig()
    validation: ValidationConfig = ValidationConfig()
    cluster: ClusterConfig = ClusterConfig()
    sinks: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)

    @property
    def transport(self) -> Literal["object_store", "nccl", "ipc"]:
        """How weights reach the engines, ``auto`` decided."""
        if self.sync.transport != "auto":
            return self.sync.transport
        if self.ships_adapter:
            return "object_store"
        if self.rollouts.share_gpu:
            return "ipc"
        whole = self.learner.num_gpus >= 1 and self.rollouts.num_gpus >= 1  # parts may be of one card
        return "nccl" if whole else "object_store"

    @property
    def ships_adapter(self) -> bool:
        """Whether a sync sends the adapter alone, which engines add to the base model that they have."""
        return self.learner.lora is not None and self.sync.adapter == "auto" and self.merged_because is None

    @property
    def merged_because(self) -> str | None:
        """What of an adapter's run keeps it from being sent alone; None: nothing of what is set here does."""
        lora = self.learner.lora
        if self.sync.transport in ("nccl", "ipc"):
            return f"sync.transport = {self.sync.transport} sends whole models"
        if self.rollouts.share_gpu and self.rollouts.sleep_level == 2:
            return "rollouts.sleep_level = 2 drops the base model, which must come anew"
        if lora is not None and lora.rank > 512:
            return f"learner.lora.rank = {lora.rank} is above vLLM's 512"
        if self.rollouts.num_gpus and self.engine.dtype == "float32":
            return "engine.dtype = float32 is none of those in which vLLM's kernels for adapters compute on GPUs"
        return None

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        rows = self.rollouts.prompts_per_step * self.rollouts.group_size
        if self.rollouts.prompts_per_step % self.learner.workers:
            raise ValueError("rollouts.prompts_per_step is no multiple of learner.workers; groups stay whole")
        if (rows // self.learner.workers) % self.learner.micro_batch:
            raise ValueError("a worker's completions in a step are no multiple of learner.micro_batch")
        group, size = self.rollouts.group_size, self.learner.micro_batch
        if size % group and group % size:
            each = rows // self.learner.workers
            fitting = [n for n in range(1, each + 1) if not each % n and not (n % group and group % n)]
            raise ValueError(
                f"learner.micro_batch = {size} cuts through groups of {group}, whose prompts would be computed again; "
                f"what fits: {', '.join(map(str, fitting))}"
            )
        if self.save_every % self.learner.iterations:
            raise ValueError("save_every is no multiple of learner.iterations; a checkpoint is between groups")
        if self.eval_every % self.learner.iterations:
            raise ValueError("eval_every is no multiple of learner.iterations; engines get new weights between groups")
        if self.eval_every and self.validation.annotations is None:
            raise ValueError("eval_every needs validation.annotations: questions that are not trained on")
        return self

    @model_validator(mode="after")
    def _corrects(self) -> TrainConfig:
        if not self.learner.correct_importance and self.rollouts.max_staleness:
            raise ValueError(
                "rollouts.max_staleness above 0 needs learner.correct_importance: older weights sampled the groups"
            )
        if self.learner.correct_importance and self.rollouts.top_p < 1:
            raise ValueError(
                "rollouts.top_p below 1 needs learner.correct_importance=false (and rollouts.max_staleness=0): "
                "the sampler's log-probs are of what top_p leaves"
            )
        return self

    @model_validator(mode="after")
    def _cards(self) -> TrainConfig:
        rollouts, learner = self.rollouts, self.learner
        if rollouts.share_gpu:
            if rollouts.max_staleness:
                raise ValueError(
                    "rollouts.share_gpu needs rollouts.max_staleness = 0: an engine that sleeps can't sample ahead"
                )
            if not (rollouts.num_gpus and learner.num_gpus) or rollouts.num_gpus + learner.num_gpus > 1:
                raise ValueError(
                    "rollouts.share_gpu needs rollouts.num_gpus and learner.num_gpus above 0, together at most 1"
                )
            if not rollouts.bounds == (learner.workers,) * 2 or self.engine.tensor_parallel > 1:
                raise ValueError(
                    "rollouts.share_gpu needs an actor of one GPU for each learner worker, no more and no fewer"
                )
            if learner.workers > 1 and rollouts.num_gpus <= 0.5:
                raise ValueError(
                    "rollouts.share_gpu on several cards needs rollouts.num_gpus above 0.5, or two actors get one"
                )
        if self.transport == "ipc" and not rollouts.share_gpu:
            raise ValueError("sync.transport = ipc is for a card that learner and engine share (rollouts.share_gpu)")
        if self.transport == "nccl" and (rollouts.share_gpu or min(rollouts.num_gpus, learner.num_gpus) < 1):
            raise ValueError("sync.transport = nccl needs whole GPUs, others for the learner than for the engines")
        return self
