"""The policy update: a small subclass of ``trl.GRPOTrainer`` that learns from groups which others have sampled.

TRL brings the losses, the KL term, PEFT, accelerate and checkpoints. What it lacks comes from
:mod:`ravst_ray.training.forward`. Private methods of TRL are overridden in :class:`GRPOLearner` and nowhere else.

::

    source(step) ─► groups of this rank ─► advantages ─► micro-batches ─► TRL's loss ─► optimizer ─► on_step(metrics)
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from ravst_ray.config.train import LearnerConfig
from ravst_ray.errors import AbortError, BadBatchError
from ravst_ray.models.pretrained import loading, model_source
from ravst_ray.policy.families import family_of, side_of
from ravst_ray.policy.families.protocols import Family, LearnerSide
from ravst_ray.training.failures import check_rewards, writing
from ravst_ray.training.forward import Row, VideoForward
from ravst_ray.training.groups import Group
from ravst_ray.training.towers import set_aside

Source = Callable[[int], list[Group]]
OnStep = Callable[[int, dict[str, float]], None]
AfterSave = Callable[[Path, int], None]


class GRPOLearner(GRPOTrainer):
    """TRL's GRPO on given groups.

    Args:
        model: the policy.
        args: from :func:`trainer_arguments`.
        processor: the policy's processor.
        family: the policy's.
        source: gives this rank's scored groups of an update, counted from 0; as many on every rank.
        temperature: of the sampler.
        frozen_vision: whether the towers stay as they are.
        share_prompts: compute a prompt once for its completions.
        features_gib: how much is kept of clips.
        on_step: called on every rank after each optimizer step with its number, from 1, and TRL's metrics.
        after_save: called with the folder and the step of each checkpoint once it is written.
        peft_config: an adapter to train in place of the model.
        reference: the start model, from :func:`load_reference`; needed for the KL term of a policy without an adapter.
    """

    def __init__(
        self,
        model: Any,
        args: GRPOConfig,
        processor: Any,
        family: Family,
        source: Source,
        *,
        temperature: float,
        frozen_vision: bool,
        share_prompts: bool = True,
        features_gib: float = 4.0,
        on_step: OnStep | None = None,
        after_save: AfterSave | None = None,
        peft_config: Any = None,
        reference: Any = None,
    ):
        from datasets import Dataset
        from trl.models.utils import prepare_fsdp

        # TRL wants a dataset and a reward function; the rows are never read, the function is never called.
        rows = Dataset.from_dict({"prompt": [""] * 8 * args.generation_batch_size})
        beta, args.beta = args.beta, 0.0  # or it would load a reference itself, which not all families can be
        super().__init__(
            model,
            reward_funcs=_never_called,
            args=args,
            train_dataset=rows,
            processing_class=processor,
            peft_config=peft_config,
        )
        self.beta = args.beta = beta
        if reference is not None:
            prepare = self.accelerator.prepare_model
            self.ref_model = (
                prepare_fsdp(reference, self.accelerator)
                if self.is_fsdp_enabled
                else prepare(reference, evaluation_mode=True)
            )
        self.use_vllm = True  # the samples are vLLM's: the importance ratio applies
        self.forward_pass = VideoForward(
            processor,
            family,
            temperature=temperature,
            frozen_vision=frozen_vision,
            share_prompts=share_prompts,
            features_gib=features_gib,
        )
        self._source, self._on_step, self._after_save = source, on_step, after_save
        self._rows: list[Row] = []
        self._buffered_inputs: list[dict[str, Any]] | None = None
        self.add_callback(_Alignment(self))
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader:
        """An endless supply of nothing: one empty batch for each micro-batch."""
        count = self.args.max_steps * self.args.gradient_accumulation_steps
        return DataLoader([{}] * count, batch_size=1, collate_fn=lambda _: {})

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        accumulation = self.args.gradient_accumulation_steps
        if self._step % (accumulation * self.num_iterations) == 0 or self._buffered_inputs is None:
            groups = self._source(self.state.global_step // self.num_iterations)
            self._buffered_inputs = self.micro_batches(groups)
        return self._buffered_inputs[self._step % accumulation]

    def micro_batches(self, groups: Sequence[Group]) -> list[dict[str, Any]]:
        """The inputs of TRL's loss, a dictionary for each micro-batch.

        Raises:
            BadBatchError: a reward is not finite.
        """
        check_rewards(groups)
        device = self.accelerator.device
        advantages = self._advantages(groups).to(device)
        rows = [Row(group.prompt_ids, one.token_ids, group.clip) for group in groups for one in group.completions]
        logprobs = [one.logprobs for group in groups for one in group.completions]
        tokens = torch.tensor(float(sum(len(row.completion_ids) for row in rows)), device=device)
        in_batch = self.accelerator.reduce(tokens, reduction="sum")
        size = self.args.per_device_train_batch_size
        made = []
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            inputs = self._inputs(rows[part], logprobs[part])
            made.append({**inputs, "advantages": advantages[part], "num_items_in_batch": in_batch})
        if len(made) != self.args.gradient_accumulation_steps:
            raise AbortError(
                f"{len(rows)} completions make {len(made)} micro-batches of {size}, "
                f"{self.args.gradient_accumulation_steps} are expected"
            )
        return made

    def _advantages(self, groups: Sequence[Group]) -> torch.Tensor:
        """Reward minus the group's mean, scaled as TRL does (standard deviation with Bessel's correction)."""
        rewards = torch.tensor([group.totals for group in groups], dtype=torch.float32)
        centred = rewards - rewards.mean(dim=1, keepdim=True)
        if self.scale_rewards == "none":
            return centred.flatten()
        if self.scale_rewards == "group":
            return (centred / (rewards.std(dim=1, keepdim=True) + 1e-4)).flatten()
        everyone = self.accelerator.gather(rewards.to(self.accelerator.device)).cpu()
        return (centred / (everyone.std() + 1e-4)).flatten()

    def _inputs(self, rows: list[Row], logprobs: Sequence[Sequence[float]]) -> dict[str, Any]:
        longest = max(len(row.completion_ids) for row in rows)
        device = self.accelerator.device
        ids = torch.zeros((len(rows), longest), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        sampled = torch.zeros((len(rows), longest), device=device)
        for place, (row, values) in enumerate(zip(rows, logprobs, strict=True)):
            length = len(row.completion_ids)
            ids[place, :length] = torch.tensor(row.completion_ids)
            mask[place, :length] = 1
            sampled[place, :length] = torch.tensor(values)
        prompt = torch.zeros((len(rows), 1), dtype=torch.long, device=device)  # TRL only joins it to the completion
        inputs: dict[str, Any] = {
            "rows": rows,
            "prompt_ids": prompt,
            "prompt_mask": prompt,
            "completion_ids": ids,
            "completion_mask": mask,
            "sampling_per_token_logps": sampled,
        }
        with torch.no_grad():
            if self.vllm_importance_sampling_correction or self.num_iterations > 1:
                old = self.forward_pass.score(self.model, rows).logps
                inputs["old_per_token_logps"] = old
                if self.vllm_importance_sampling_correction:
                    ratio = torch.exp((old - sampled) * mask)
                    self._log_ratio(ratio, mask)
                    inputs["importance_sampling_ratio"] = ratio.clamp(max=self.vllm_importance_sampling_clip_max)
            if self.beta != 0.0:
                inputs["ref_per_token_logps"] = self._reference(rows)
        return inputs

    def _log_ratio(self, ratio: torch.Tensor, mask: torch.Tensor) -> None:
        inside = ratio[mask.bool()]
        gap = inside.log().abs()
        for name, value in (("ratio_mean", inside.mean()), ("ratio_max", inside.max()), ("gap_mean", gap.mean())):
            self._metrics["train"][f"importance/{name}"].append(float(value))

    def _reference(self, rows: list[Row]) -> torch.Tensor:
        if self.ref_model is not None:
            return self.forward_pass.score(self.ref_model, rows).logps
        with self.accelerator.unwrap_model(self.model).disable_adapter():
            return self.forward_pass.score(self.model, rows).logps

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._rows = inputs["rows"]
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        self._check_finite("loss", float(loss.detach()))
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        self._check_finite("norm of the gradient", float(whole))  # clipping would make every weight NaN by it
        return norm

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise BadBatchError(f"the {what} is {value} in step {self.state.global_step + 1}; no update was made of it")

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, None]:
        scores = self.forward_pass.score(model, self._rows, entropies=True)
        return scores.logps, scores.entropies, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hand the metrics of a step on."""
        super().log(logs, start_time)
        if self._on_step is not None and "loss" in logs:
            self._on_step(self.state.global_step, {key: value for key, value in logs.items() if value is not None})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        policy = self.model if model is None else model
        if hasattr(policy, "get_base_model") or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_saved(policy, resume_from_checkpoint)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            with writing(folder):
                super(GRPOTrainer, self)._save_checkpoint(model, trial)  # without a model card for each
                if self._after_save is not None:
                    self._after_save(folder, self.state.global_step)
        except AbortError:
            shutil.rmtree(folder, ignore_errors=True)  # half of one is of no use, and the disk is full
            raise


class _Alignment(TrainerCallback):
    """After a resume TRL counts micro-batches from 0 again; its buffer must follow the true count."""

    def __init__(self, learner: GRPOLearner):
        self._learner = learner

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the count."""
        self._learner._step = state.global_step * args.gradient_accumulation_steps


def _never_called(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    raise AssertionError("rewards come with the groups")


def trainer_arguments(
    config: LearnerConfig,
    output: str | Path,
    *,
    rows: int,
    group_size: int,
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
        max_steps: optimizer steps.
        seed: of the learner.
        save_every: steps between checkpoints; 0: none.
        layers: class names of the layers that FSDP2 shards, from :func:`layers_to_shard`; empty: DDP.
        more: further arguments of ``transformers.TrainingArguments``.
    """
    cuda = torch.cuda.is_available()
    accumulation = rows // config.micro_batch
    sharded: dict[str, Any] = {}
    if layers:
        sharded = {"fsdp": True, "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": list(layers)}}
    return GRPOConfig(
        output_dir=str(output),
        use_cpu=not cuda,
        bf16=dtype_of(config) == torch.bfloat16,
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation,
        num_generations=group_size,
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
        epsilon_high=config.clip_high,
        beta=config.kl,
        vllm_importance_sampling_correction=config.correct_importance,
        vllm_importance_sampling_mode="token_truncate",
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
        **sharded,
        **more,
    )


def layers_to_shard(model: Any, side: LearnerSide) -> list[str]:
    """Class names of the layers that FSDP2 shards one by one; those of a tower that stands aside aren't among them."""
    there = {type(module).__name__ for module in model.modules()}
    return [name for name in side.sharded_layers if name in there]


def dtype_of(config: LearnerConfig) -> torch.dtype:
    """``auto`` becomes float32 on a CPU and bfloat16 on a GPU."""
    if config.dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() else torch.float32
    dtype: torch.dtype = getattr(torch, config.dtype)
    return dtype


class Policy(NamedTuple):
    """A policy to train: the bare model, its processor, the adapter's configuration with LoRA, and its family."""

    model: Any
    processor: Any
    adapter: Any
    family: Family


def load_policy(model: str, config: LearnerConfig) -> Policy:
    """The policy of a directory or hub name, frozen towers set aside.

    What is trained is float32; beside an adapter the rest is of the type that is computed in.

    Raises:
        ConfigError: the model can't be loaded.
    """
    source = model_source(model, "model")
    family = family_of(source)
    side = family.learner()
    with loading(source, "model"):
        from transformers import AutoProcessor

        policy = side.load(source, dtype_of(config) if config.lora else torch.float32)
        processor = AutoProcessor.from_pretrained(source)
    if config.freeze_vision:
        set_aside(policy, side.towers, dtype_of(config))
    adapter = None
    if config.lora is not None:
        import peft

        adapter = peft.LoraConfig(
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,
            target_modules=side.adapter_scope.format(targets="|".join(config.lora.targets)),
            task_type="CAUSAL_LM",
        )
    return Policy(policy, processor, adapter, family)


def load_reference(model: str, config: LearnerConfig) -> Any:
    """The start model, for the KL term; None where there is none, or an adapter is switched off for it."""
    if not config.kl or config.lora is not None:
        return None
    side = family_of(model).learner()
    reference = side.load(model_source(model, "model"), dtype_of(config)).requires_grad_(False).eval()
    if config.freeze_vision:
        set_aside(reference, side.towers, dtype_of(config))
    return reference


def load_saved(policy: Any, folder: str) -> None:
    """Put the weights of a checkpoint into a bare policy.

    Checkpoints hold the names of the hub; transformers' trainer takes them as they are, finds none of them in the
    model, warns, and goes on with the weights that it has. Loading as a model translates them. Towers that stand aside
    are in no checkpoint.
    """
    with quiet_loading():
        saved = side_of(policy).load(folder, policy.dtype).state_dict()
    policy.load_state_dict({name: saved[name] for name in policy.state_dict()})


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' warning of weights that a checkpoint lacks."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
