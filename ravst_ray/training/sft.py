"""Supervised fine-tuning on true answers: a small subclass of ``trl.SFTTrainer`` with the learner's own forward.

TRL has no video inputs; here prompts, positions and log-probs come from :mod:`ravst_ray.training.forward`, as in GRPO.
Completions are learned, prompts are not.

::

    examples ─► steps of whole batches, by seed and epoch ─► this rank's micro-batches ─► cross-entropy ─► optimizer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from trl import SFTConfig, SFTTrainer

from ravst_ray.config.sft import SftConfig
from ravst_ray.config.train import LearnerConfig
from ravst_ray.errors import AbortError, ConfigError
from ravst_ray.media.clips import Clip
from ravst_ray.policy.families.protocols import Family
from ravst_ray.training.arguments import sharding
from ravst_ray.training.forward import Row, VideoForward
from ravst_ray.training.policy_loading import dtype_of, layers_to_shard, load_policy
from ravst_ray.training.saving import AfterSave, SavesCheckpoints

OnStep = Callable[[int, dict[str, float]], None]
Expect = Callable[[Sequence[int]], None]


def example(forward: VideoForward, prompt: str, answer: str, clip: Clip | None = None) -> Row:
    """A prompt with the answer to learn, ended as the model should end it."""
    tokenizer = forward.processor.tokenizer
    return Row(forward.prompt_ids(prompt, clip), [*tokenizer(answer)["input_ids"], int(tokenizer.eos_token_id)], clip)


class SFTLearner(SavesCheckpoints, SFTTrainer):
    """TRL's SFT on prompts with video.

    Args:
        model: the policy.
        args: from :func:`sft_arguments`.
        processor: the policy's processor.
        family: the policy's.
        examples: the same ones on every rank; ``completion_ids`` are learned, their end token included. None in place
            of one that can't be shown.
        frozen_vision: whether the towers stay as they are.
        features_gib: how much is kept of clips.
        on_step: called on every rank after each optimizer step with its number, from 1, and TRL's metrics.
        peft_config: an adapter to train in place of the model.
        expect: told before each step which places this rank comes to, in order.
        ahead: how many examples after those of a step ``expect`` is told of.
        after_save: see :class:`~ravst_ray.training.saving.SavesCheckpoints`.
    """

    # The models say that they take no token counts: transformers would average micro-batches whatever their length.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any,
        args: SFTConfig,
        processor: Any,
        family: Family,
        examples: Sequence[Row | None],
        *,
        frozen_vision: bool,
        features_gib: float = 4.0,
        on_step: OnStep | None = None,
        peft_config: Any = None,
        expect: Expect | None = None,
        ahead: int = 0,
        after_save: AfterSave | None = None,
    ):
        from datasets import Dataset

        if len(examples) < args.per_device_train_batch_size:
            raise ConfigError(f"{len(examples)} examples don't fill a batch of {args.per_device_train_batch_size}")
        # TRL looks at a dataset; the examples come from the loader below.
        rows = Dataset.from_dict({"input_ids": [[0]] * 8, "labels": [[0]] * 8})
        super().__init__(
            model,
            args=args,
            data_collator=list,
            train_dataset=rows,
            processing_class=processor,
            peft_config=peft_config,
        )
        # True answers hold no banned tokens: the loss is that of the bare model.
        self.forward_pass = VideoForward(
            processor, family, frozen_vision=frozen_vision, banned=False, features_gib=features_gib
        )
        self._examples, self._on_step, self.after_save = examples, on_step, after_save
        self._expect, self._ahead, self._replaced = expect, ahead, 0

    def get_train_dataloader(self) -> DataLoader:
        """One endless epoch of micro-batches; after a resume it begins where the run stopped."""
        return DataLoader(_Batches(self), batch_size=None)

    def micro_batches(self, step: int) -> list[list[Row]]:
        """This rank's examples of an optimizer step, counted from 0: the same for the same seed and step.

        An example that can't be shown gives way to the one that its slot has in the next step in which it has one.
        """
        if self._expect is not None and self._ahead:
            steps = range(step, min(step + 1 + self._ahead // len(self._own(step)), self.args.max_steps))
            self._expect([place for one in steps for place in self._own(one)])
        mine = [self._row(step, slot) for slot in range(len(self._own(step)))]
        size = self.args.per_device_train_batch_size
        return [mine[start : start + size] for start in range(0, len(mine), size)]

    def _own(self, step: int) -> list[int]:
        """The places of this rank's examples of a step, one for each of its slots."""
        own = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        batch = own * self.args.world_size
        start = step * batch + self.args.process_index * own
        return _places(len(self._examples), start, own, self.args.seed)

    def _row(self, step: int, slot: int) -> Row:
        while (row := self._examples[self._own(step)[slot]]) is None:  # ends: who can show nothing raises
            self._replaced += 1
            step += 1
        return row

    def tokens(self, parts: Sequence[Sequence[Row]]) -> torch.Tensor:
        """The answers' tokens of a step, those of the other ranks with them."""
        own = sum(len(row.completion_ids) for rows in parts for row in rows)
        counted = torch.tensor(float(own), device=self.accelerator.device)
        total: torch.Tensor = self.accelerator.reduce(counted, reduction="sum")
        return total

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Cross-entropy: the sum over the answers' tokens, divided by the tokens of the whole step.

        Raises:
            AbortError: it isn't finite; nothing was learned from it.
        """
        scores = self.forward_pass.score(model, inputs["rows"])
        # The gradients of the workers are averaged, the tokens of all were counted.
        loss: torch.Tensor = -scores.logps.sum() / inputs["tokens"] * self.accelerator.num_processes
        if not torch.isfinite(loss):
            raise AbortError(
                f"the loss is {float(loss)} in step {self.state.global_step + 1}; no update was made of it"
            )
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hand the metrics of a step on."""
        super().log(logs, start_time)
        if self._on_step is not None and "loss" in logs:
            numbers = {key: value for key, value in logs.items() if value is not None}
            self._on_step(self.state.global_step, numbers | {"examples/replaced": float(self._replaced)})
            self._replaced = 0


class _Batches(torch.utils.data.IterableDataset):
    """Micro-batches from the trainer's present step on, each with the number of tokens of its whole step."""

    def __init__(self, learner: SFTLearner):
        self._learner = learner

    def __len__(self) -> int:
        return int(self._learner.args.max_steps) * int(self._learner.args.gradient_accumulation_steps)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for step in range(self._learner.state.global_step, self._learner.args.max_steps):
            parts = self._learner.micro_batches(step)
            tokens = self._learner.tokens(parts)
            for rows in parts:
                yield {"rows": rows, "tokens": tokens}


def _places(count: int, start: int, size: int, seed: int) -> list[int]:
    """``size`` places from ``start`` on in an endless row of shuffled passes over ``count`` examples."""
    passes = range(start // count, (start + size - 1) // count + 1)
    orders = np.concatenate([np.random.default_rng([seed, one]).permutation(count) for one in passes])
    offset = start - passes[0] * count
    found: list[int] = orders[offset : offset + size].tolist()
    return found


def sft_arguments(
    config: SftConfig, output: str | Path, *, examples: int, workers: int = 1, save_every: int = 0, **more: Any
) -> SFTConfig:
    """TRL's arguments.

    Args:
        config: the update.
        output: folder for checkpoints.
        examples: how many there are.
        workers: ranks, which share a batch.
        save_every: steps between checkpoints; 0: none.
        more: further arguments of ``transformers.TrainingArguments``.

    Raises:
        ConfigError: the batch can't be shared evenly.
    """
    if config.batch % (config.micro_batch * workers):
        raise ConfigError(
            f"batch {config.batch} is no multiple of {workers} workers x micro_batch {config.micro_batch}"
        )
    return SFTConfig(
        output_dir=str(output),
        use_cpu=not torch.cuda.is_available(),
        bf16=shared_settings(config)[1] == torch.bfloat16,
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=config.batch // config.micro_batch // workers,
        max_steps=config.steps(examples),
        learning_rate=config.rate,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.clip_norm,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        gradient_checkpointing=config.gradient_checkpointing,
        logging_steps=1,
        save_strategy="steps" if save_every else "no",
        save_steps=save_every or 500,
        report_to=[],
        disable_tqdm=True,
        seed=config.seed,
        ignore_data_skip=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        **more,
    )


def build_sft(
    model_dir: str | Path,
    config: SftConfig,
    examples: Sequence[Row | None],
    output: str | Path,
    *,
    workers: int = 1,
    save_every: int = 0,
    **more: Any,
) -> SFTLearner:
    """A learner on the model of ``model_dir``; ``train()``, then ``save_model(folder)``.

    Args:
        model_dir: hub name or directory to start from.
        config: the update.
        examples: made by :func:`example` with this model's processor.
        output: folder for checkpoints.
        workers: ranks that train together.
        save_every: steps between checkpoints; 0: none.
        more: ``on_step``, ``after_save``, ``expect`` and ``ahead`` of :class:`SFTLearner`.

    Raises:
        ConfigError: the model can't be loaded, or the batches don't fit.
    """
    policy = load_policy(str(model_dir), shared_settings(config)[0])
    sharded = sharding(layers_to_shard(policy.model, policy.family.learner()) if config.shard else ())
    args = sft_arguments(config, output, examples=len(examples), workers=workers, save_every=save_every, **sharded)
    return SFTLearner(
        policy.model,
        args,
        policy.processor,
        policy.family,
        examples,
        frozen_vision=config.freeze_vision,
        features_gib=config.features_gib,
        peft_config=policy.adapter,
        **more,
    )


def shared_settings(config: SftConfig) -> tuple[LearnerConfig, torch.dtype]:
    """What supervised training and GRPO load and compute alike."""
    learner = LearnerConfig(
        freeze_vision=config.freeze_vision, lora=config.lora, dtype=config.dtype, shard=config.shard
    )
    return learner, dtype_of(learner)
