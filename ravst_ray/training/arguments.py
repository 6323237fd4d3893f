"""The learner's configuration in TRL's words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from trl import GRPOConfig

from ravst_ray.config.train import LearnerConfig
from ravst_ray.training.policy_loading import dtype_of


def trainer_arguments(
    config: LearnerConfig,
    output: str | Path,
    *,
    rows: int,
    group_size: int,
    max_tokens: int,
    max_steps: int,
    seed: int,
    save_every: int = 0,
    layers: Sequence[str] = (),
    **more: Any,
) -> GRPOConfig:
    """TRL's arguments.

    Args:
        config: the update.
        output: folder for checkpoints.
        rows: completions of one worker in a step.
        group_size: G.
        max_tokens: the most that a completion can have; ``dr_grpo`` divides by it.
        max_steps: optimizer steps.
        seed: of the learner.
        save_every: steps between checkpoints; 0: none.
        layers: class names of the layers that FSDP2 shards, from
            :func:`~ravst_ray.training.policy_loading.layers_to_shard`; empty: DDP.
        more: further arguments of ``transformers.TrainingArguments``.
    """
    cuda = torch.cuda.is_available()
    accumulation = rows // config.micro_batch
    return GRPOConfig(
        output_dir=str(output),
        use_cpu=not cuda,
        bf16=dtype_of(config) == torch.bfloat16,
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation,
        num_generations=group_size,
        max_completion_length=max_tokens,
        num_iterations=config.iterations,
        max_steps=max_steps,
        learning_rate=config.rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.clip_norm,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        loss_type=config.loss,
        scale_rewards=config.scale_rewards,
        epsilon=config.clip_low,
        epsilon_high=config.upper_clip,
        importance_sampling_level=config.importance_level,
        mask_truncated_completions=config.mask_truncated,
        beta=config.kl,
        vllm_importance_sampling_correction=config.correct_importance,
        vllm_importance_sampling_mode=config.importance_mode,
        vllm_importance_sampling_clip_max=config.importance_cap,
        gradient_checkpointing=config.gradient_checkpointing,
        ddp_find_unused_parameters=not config.freeze_vision,  # a tower that learns is idle when no row has a video
        logging_steps=1,
        save_strategy="steps" if save_every else "no",
        save_steps=save_every or 500,
        report_to=[],
        disable_tqdm=True,
        seed=seed,
        ignore_data_skip=True,
        dataloader_pin_memory=False,
        **sharding(layers),
        **more,
    )


def sharding(layers: Sequence[str]) -> dict[str, Any]:
    """Arguments with which FSDP2 shards layers of these class names; without any: those of DDP."""
    if not layers:
        return {}
    by_layer = {"version": 2, "transformer_layer_cls_to_wrap": list(layers)}
    return {"fsdp": True, "fsdp_config": {**by_layer, "cpu_ram_efficient_loading": True}}  # rank 0's weights
