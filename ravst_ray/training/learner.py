"""The policy update: a small subclass of ``trl.GRPOTrainer`` that learns from groups which others have sampled.

TRL brings the losses, the KL term, PEFT and accelerate. What it lacks comes from :mod:`ravst_ray.training.forward`,
checkpoints from :mod:`ravst_ray.training.saving`. Private methods of TRL are overridden in these two classes alone.

::

    source(step) ─► groups of this rank ─► advantages ─► micro-batches ─► TRL's loss ─► optimizer ─► on_step(metrics)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import disable_fsdp_ram_efficient_loading
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from ravst_ray.errors import AbortError, BadBatchError
from ravst_ray.policy.families.protocols import Family
from ravst_ray.training.failures import check_rewards
from ravst_ray.training.forward import Row, VideoForward
from ravst_ray.training.groups import Completion, Group
from ravst_ray.training.importance import importance_weights, learned_tokens, ratio_sums, unknown_tokens
from ravst_ray.training.policy_loading import shard_reference
from ravst_ray.training.saving import AfterSave, SavesCheckpoints

Source = Callable[[int], list[Group]]
OnStep = Callable[[int, dict[str, float]], None]


class GRPOLearner(SavesCheckpoints, GRPOTrainer):
    """TRL's GRPO on given groups.

    Args:
        model: the policy.
        args: from :func:`~ravst_ray.training.arguments.trainer_arguments`.
        processor: the policy's processor.
        family: the policy's.
        source: gives this rank's scored groups of an update, counted from 0; as many on every rank.
        temperature: of the sampler.
        frozen_vision: whether the towers stay as they are.
        share_prompts: compute a prompt once for its completions.
        features_gib: how much is kept of clips.
        on_step: called on every rank after each optimizer step with its number, from 1, and TRL's metrics.
        after_save: see :class:`~ravst_ray.training.saving.SavesCheckpoints`.
        peft_config: an adapter to train in place of the model.
        reference: the start model, from :func:`~ravst_ray.training.policy_loading.load_reference`; for the KL term of
            a policy without an adapter.
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
        if self.is_fsdp_enabled:  # shards come from rank 0; what else is loaded is to have weights on all ranks
            disable_fsdp_ram_efficient_loading()
        self.beta = args.beta = beta
        if reference is not None:
            prepare = shard_reference if self.is_fsdp_enabled else _as_it_is
            self.ref_model = prepare(reference, self.accelerator)
        self.use_vllm = True  # the samples are vLLM's: the importance ratio applies
        self.forward_pass = VideoForward(
            processor,
            family,
            temperature=temperature,
            frozen_vision=frozen_vision,
            share_prompts=share_prompts,
            features_gib=features_gib,
        )
        self._source, self._on_step, self.after_save = source, on_step, after_save
        self._at_hand: dict[str, Any] = {}
        self._log_ratios: list[torch.Tensor] = []
        self._unknown = 0
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
        completions = [one for group in groups for one in group.completions]
        size = self.args.per_device_train_batch_size
        made = []
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            made.append({**self._inputs(rows[part], completions[part]), "advantages": advantages[part]})
        tokens = torch.tensor(float(sum(int(one["completion_mask"].sum()) for one in made)), device=device)
        in_batch = self.accelerator.reduce(tokens, reduction="sum")
        for one in made:
            one["num_items_in_batch"] = in_batch
        self._unknown = unknown_tokens(completions)
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

    def _inputs(self, rows: list[Row], completions: Sequence[Completion]) -> dict[str, Any]:
        longest = max(len(row.completion_ids) for row in rows)
        device = self.accelerator.device
        ids = torch.zeros((len(rows), longest), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        sampled = torch.zeros((len(rows), longest), device=device)
        for place, one in enumerate(completions):
            length = len(one.token_ids)
            ids[place, :length] = torch.tensor(one.token_ids)
            mask[place, :length] = torch.tensor(learned_tokens(one, self.mask_truncated_completions)).long()
            sampled[place, :length] = torch.tensor(one.logprobs).nan_to_num(0.0, 0.0, 0.0)
        prompt = torch.zeros((len(rows), 1), dtype=torch.long, device=device)  # TRL only joins it to the completion
        inputs: dict[str, Any] = {
            "rows": rows,
            "prompt_ids": prompt,
            "prompt_mask": prompt,
            "completion_ids": ids,
            "completion_mask": mask,  # for TRL the tokens of the loss; what attends to what is the forward's affair
            "sampling_per_token_logps": sampled,
        }
        with torch.no_grad():
            if self.num_iterations > 1:
                inputs["old_per_token_logps"] = old = self.forward_pass.score(self.model, rows).logps
                self._correct(inputs, old)
            if self.beta != 0.0:
                inputs["ref_per_token_logps"] = self._reference(rows)
        return inputs

    def _correct(self, inputs: dict[str, Any], old: torch.Tensor) -> None:
        """Weigh a micro-batch's tokens by how likely they were for the learner, before an update, and the sampler."""
        if not self.vllm_importance_sampling_correction:
            return
        log_ratio, mask = old - inputs["sampling_per_token_logps"], inputs["completion_mask"]
        mode, cap = self.vllm_importance_sampling_mode, self.vllm_importance_sampling_clip_max
        inputs["importance_sampling_ratio"] = importance_weights(log_ratio, mask, mode, cap)
        self._log_ratios.append(log_ratio[mask.bool()])

    def _tell_importance(self) -> None:
        """The metrics of a step's tokens on all ranks: means over tokens, the largest ratio, unknown log-probs."""
        device, told = self.accelerator.device, self._metrics["train"]
        found = torch.cat(self._log_ratios) if self._log_ratios else torch.zeros(0, device=device)
        sums = torch.cat([ratio_sums(found), torch.tensor([float(self._unknown)], device=device)])
        self._log_ratios, self._unknown = [], 0
        ratio, gap, count, masked = self.accelerator.reduce(sums, reduction="sum").tolist()
        largest = self.accelerator.gather(found.max().exp().reshape(1) if len(found) else sums.new_zeros(1)).max()
        told["importance/masked_tokens"].append(masked)
        if count:
            told["importance/ratio_mean"].append(ratio / count)
            told["importance/gap_mean"].append(gap / count)
            told["importance/ratio_max"].append(float(largest))

    def _reference(self, rows: list[Row]) -> torch.Tensor:
        if self.ref_model is not None:
            return self.forward_pass.score(self.ref_model, rows).logps
        with self.accelerator.unwrap_model(self.model).disable_adapter():
            return self.forward_pass.score(self.model, rows).logps

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._at_hand = inputs
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        self._check_finite("loss", float(loss.detach()))
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        self._check_finite("norm of the gradient", float(whole))  # clipping would make every weight NaN by it
        return norm

    def largest(self, value: float) -> float:
        """The largest of all ranks' values, where the model is sharded and they must decide alike; else this one's."""
        if not self.is_fsdp_enabled:
            return value
        return float(self.accelerator.gather(torch.tensor([value], device=self.accelerator.device)).max())

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise BadBatchError(f"the {what} is {value} in step {self.state.global_step + 1}; no update was made of it")

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, None]:
        scores = self.forward_pass.score(model, self._at_hand["rows"], entropies=True)
        if self.num_iterations == 1:  # no update lies between micro-batches: these are the log-probs before it
            self._correct(self._at_hand, scores.logps.detach())
        return scores.logps, scores.entropies, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hand the metrics of a step on, without those of which a micro-batch has none (NaN): all its tokens masked."""
        if "loss" in logs:
            self._tell_importance()
        metrics = self._metrics["train"]
        for key, values in list(metrics.items()):
            metrics[key] = [value for value in values if not math.isnan(value)]
            if not metrics[key]:
                del metrics[key]
        super().log(logs, start_time)
        if self._on_step is not None and "loss" in logs:
            self._on_step(self.state.global_step, {key: value for key, value in logs.items() if value is not None})


class _Alignment(TrainerCallback):
    """After a resume TRL counts micro-batches from 0 again; its buffer must follow the true count."""

    def __init__(self, learner: GRPOLearner):
        self._learner = learner

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Set the count."""
        self._learner._step = state.global_step * args.gradient_accumulation_steps


def _as_it_is(reference: Any, accelerator: Any) -> Any:
    return accelerator.prepare_model(reference, evaluation_mode=True)


def _never_called(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    raise AssertionError("rewards come with the groups")
