"""The policy update against TRL's own loss, against GRPO in plain PyTorch, and between workers."""

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from trl import GRPOTrainer

from ravst_ray.config.train import LearnerConfig, LoraConfig
from ravst_ray.errors import AbortError
from ravst_ray.training.arguments import trainer_arguments
from ravst_ray.training.forward import Row, VideoForward, unwrapped
from ravst_ray.training.learner import GRPOLearner
from ravst_ray.training.policy_loading import load_policy, load_reference
from ravst_ray.training.weights import policy_state, save_policy_model
from tests.benchmarks.gpu_training import grpo_loss
from tests.tiny_policies import FAMILY, load_tiny, made_up_group, noise_clip, tiny_policy

REWARDS = [(1.0, 0.0, 0.5, 0.25), (0.0, 2.0, 0.0, 0.0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("policy"), seed=7)


def settings(**more):
    plain = {"rate": 1e-2, "micro_batch": 4, "freeze_vision": False, "schedule": "constant", "dtype": "float32"}
    return LearnerConfig(**{**plain, **more})


def build(folder, tmp_path, config, source, steps=1, on_step=None, rows=8):
    model, processor, adapter, family = load_policy(str(folder), config)
    args = trainer_arguments(config, tmp_path, rows=rows, group_size=4, max_tokens=16, max_steps=steps, seed=0)
    return GRPOLearner(
        model,
        args,
        processor,
        family,
        source,
        temperature=1.0,
        frozen_vision=config.freeze_vision,
        on_step=on_step,
        peft_config=adapter,
        reference=load_reference(str(folder), config, model),
    )


def groups(processor, video=True):
    forward = VideoForward(processor, FAMILY)
    return [
        made_up_group(forward, f"When is {n}?", noise_clip(f"c{n}", 4, n) if video else None, rewards, seed=n)
        for n, rewards in enumerate(REWARDS)
    ]


def gradients(learner, inputs):
    """The summed loss and gradients of micro-batches, without an optimizer step."""
    learner.model.train()
    learner.model.zero_grad()
    learner.current_gradient_accumulation_steps = learner.args.gradient_accumulation_steps
    total = 0.0
    for one in inputs:
        loss = learner._compute_loss(learner.model, one)
        loss.backward()
        total += float(loss)
    return total, {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}


def assert_same(ours, theirs, tolerance=1e-5):
    (loss, grads), (wanted, expected) = ours, theirs
    assert loss == pytest.approx(wanted, abs=tolerance)
    assert grads.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(grads[name], value, atol=tolerance), name


@pytest.mark.parametrize("loss", ["dapo", "grpo", "bnpo", "dr_grpo"])
def test_text_only_loss_and_gradients_are_trls_own(folder, tmp_path, loss, monkeypatch):
    """TRL's own log-probs and loss see the very ids, masks and ratios that ours do."""
    learner = build(folder, tmp_path, settings(loss=loss), lambda step: [])
    inputs = learner.micro_batches(groups(learner.processing_class, video=False))
    ours = gradients(learner, inputs)
    for one in inputs:
        rows = one["rows"]
        width = max(len(row.prompt_ids) for row in rows)
        prompts = [[0] * (width - len(row.prompt_ids)) + list(row.prompt_ids) for row in rows]
        one["prompt_ids"] = torch.tensor(prompts)
        one["prompt_mask"] = torch.tensor([[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in rows])
        one["mm_token_type_ids"] = torch.zeros(len(rows), width + one["completion_ids"].shape[1], dtype=torch.long)
    # TRL has no bans and takes the model's own positions, which for text are the same.
    learner.forward_pass.banned = []
    unbanned = gradients(learner, inputs)
    monkeypatch.setattr(
        GRPOLearner, "_get_per_token_logps_and_entropies", GRPOTrainer._get_per_token_logps_and_entropies
    )
    assert_same(unbanned, gradients(learner, inputs))
    assert abs(ours[0] - unbanned[0]) < 0.05


def test_the_benchmark_of_a_step_has_the_learners_loss(folder, tmp_path):
    learner = build(folder, tmp_path, settings(), lambda step: [])
    inputs = learner.micro_batches(groups(learner.processing_class))
    wanted = gradients(learner, inputs)
    learner.model.zero_grad()
    total = 0.0
    tokens = sum(int(one["completion_mask"].sum()) for one in inputs)
    for one in inputs:
        logps = learner.forward_pass.score(learner.model, one["rows"]).logps
        mask = one["completion_mask"].bool()
        given = (one["sampling_per_token_logps"], one["advantages"][:, None], mask)
        loss = grpo_loss(logps, *given) * mask.sum() / tokens
        loss.backward()
        total += float(loss)
    found = {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}
    assert_same((total, found), wanted)
    assert max(float(value.abs().max()) for value in found.values()) > 1e-3


def plain_grpo(model, forward, given, config, most, cap=1.05):
    """The losses as in their papers, a row at a time, ratio 1 to the old policy.

    GRPO: 2402.03300 eq. 3; DAPO: 2503.14476 eq. 8; Dr. GRPO: 2503.20783; CISPO: 2506.13585 eq. 4; GSPO: 2507.18071.
    """
    parts = []
    for group in given:
        rewards = torch.tensor(group.totals)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        for one, advantage in zip(group.completions, advantages, strict=True):
            logps = forward.score(model, [Row(group.prompt_ids, one.token_ids, group.clip)]).logps[0]
            known = torch.isfinite(torch.tensor(one.logprobs))
            if config.mask_truncated and one.truncated:
                known[:] = False
            logps, sampled = logps[known], torch.tensor(one.logprobs)[known]
            behind = logps.detach() - sampled
            weight = torch.exp(behind.sum() if "sequence" in config.importance_mode else behind)
            weight = weight.clamp(max=cap) if "truncate" in config.importance_mode else weight * (weight <= cap)
            moved = logps - logps.detach()
            ratio = torch.exp(moved.mean() if config.importance_level == "sequence" else moved)
            if config.loss == "cispo":
                parts.append(-ratio.detach().clamp(max=5.0) * advantage * logps * weight)
                continue
            clipped = ratio.clamp(1 - 0.2, 1 + 0.2)
            parts.append(-torch.min(ratio * advantage, clipped * advantage) * weight * torch.ones_like(logps))
    if config.loss == "grpo":
        return torch.stack([part.sum() / max(len(part), 1) for part in parts]).mean()
    tokens = sum(len(part) for part in parts)
    return torch.cat(parts).sum() / (len(parts) * most if config.loss == "dr_grpo" else tokens)


@pytest.mark.parametrize(
    "more",
    [
        {"loss": "dapo"},
        {"loss": "dapo", "iterations": 2},
        {"loss": "grpo"},
        {"loss": "dr_grpo"},
        {"loss": "cispo"},
        {"loss": "grpo", "importance_level": "sequence", "importance_mode": "sequence_truncate"},
        {"loss": "dapo", "importance_mode": "token_mask", "mask_truncated": True},
        {"loss": "dapo", "importance_mode": "sequence_mask"},
    ],
    ids=lambda more: "-".join(str(value) for value in more.values()),
)
def test_a_video_batch_agrees_with_plain_pytorch(folder, tmp_path, more):
    """Where a completion was cut off, and of two tokens the sampler knows no log-prob."""
    config = settings(importance_cap=1.05, **more)
    learner = build(folder, tmp_path, config, lambda step: [])
    given = groups(learner.processing_class)
    (first, second, *rest), others = given[0].completions, given[1].completions
    second = replace(second, truncated=True, logprobs=(math.nan, *second.logprobs[1:]))
    first = replace(first, logprobs=(first.logprobs[0], -math.inf, *first.logprobs[2:]))
    given[0] = replace(given[0], completions=(first, second, *rest))
    given[1] = replace(given[1], completions=(replace(others[0], truncated=True), *others[1:]))
    inputs = learner.micro_batches(given)
    ours = gradients(learner, inputs)
    learner._tell_importance()
    learner.model.zero_grad()
    loss = plain_grpo(learner.model, VideoForward(learner.processing_class, FAMILY), given, config, most=16)
    loss.backward()
    wanted = {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}
    assert_same(ours, (float(loss.detach()), wanted))
    assert wanted["model.visual.patch_embed.proj.weight"].abs().sum() > 0
    told = learner._metrics["train"]
    assert told["importance/masked_tokens"] == [2.0]
    if not config.mask_truncated:
        scored = [(learner.forward_pass.score(learner.model, one["rows"]).logps.detach(), one) for one in inputs]
        behind = [(logps - one["sampling_per_token_logps"])[one["completion_mask"].bool()] for logps, one in scored]
        ratios = torch.cat(behind).exp()
        tokens = sum(len(one.token_ids) for group in given for one in group.completions)
        assert len(ratios) == tokens - 2
        assert told["importance/ratio_mean"] == pytest.approx([float(ratios.mean())], abs=1e-5)
        assert told["importance/ratio_max"] == pytest.approx([float(ratios.max())], abs=1e-5)
        assert told["importance/gap_mean"] == pytest.approx([float(ratios.log().abs().mean())], abs=1e-5)


def test_a_step_of_completions_that_were_all_cut_off_changes_nothing(folder, tmp_path):
    told = []
    learner = build(
        folder,
        tmp_path,
        settings(mask_truncated=True),
        lambda step: cut,
        on_step=lambda _, numbers: told.append(numbers),
    )
    cut = [
        replace(one, completions=tuple(replace(c, truncated=True) for c in one.completions))
        for one in groups(learner.processing_class, video=False)
    ]
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.train()
    assert all((before[name] == value).all() for name, value in learner.model.state_dict().items())
    assert told[0]["loss"] == told[0]["grad_norm"] == 0.0
    assert all(math.isfinite(value) for value in told[0].values())


def test_advantages_by_hand(folder, tmp_path):
    given = None
    for scale, expected in (
        # mean 0.4375; deviations 0.5625, -0.4375, 0.0625, -0.1875; variance 0.546875 / 3, its root 0.426956
        ("group", [1.317157, -1.024455, 0.146351, -0.439052, -0.4999, 1.4997, -0.4999, -0.4999]),
        ("none", [0.5625, -0.4375, 0.0625, -0.1875, -0.5, 1.5, -0.5, -0.5]),
    ):
        learner = build(folder, tmp_path, settings(scale_rewards=scale), lambda step: [])
        given = groups(learner.processing_class, video=False)
        assert learner._advantages(given).tolist() == pytest.approx(expected, abs=2e-4)


def test_a_step_uses_each_update_once_and_tells_its_numbers(folder, tmp_path):
    asked, told = [], []
    learner = None

    def source(step):
        asked.append(step)
        return groups(learner.processing_class)

    learner = build(folder, tmp_path, settings(iterations=2), source, 4, lambda *numbers: told.append(numbers))
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.train()
    assert asked == [0, 1]
    assert [step for step, _ in told] == [1, 2, 3, 4]
    assert {"loss", "grad_norm", "entropy", "importance/ratio_mean", "importance/gap_mean"} <= told[0][1].keys()
    assert all(math.isfinite(value) for _, numbers in told for value in numbers.values())
    assert any((before[name] != value).any() for name, value in learner.model.state_dict().items())


def test_the_policy_learns_what_is_rewarded(folder, tmp_path):
    """Two answers, one rewarded: its probability rises."""
    learner = None
    likely = []

    def source(step):
        forward = learner.forward_pass
        prompt = tuple(forward.prompt_ids("Left or right?", None))
        rows = [Row(prompt, [token]) for token in (100, 101, 100, 101)]
        with torch.no_grad():
            logps = forward.score(learner.model, rows).logps[:, 0].tolist()
        likely.append(logps[0])
        from ravst_ray.tasks.rubric import Reward
        from ravst_ray.training.groups import Completion, Group

        made = tuple(
            Completion(tuple(r.completion_ids), (v,), (step,), "", False) for r, v in zip(rows, logps, strict=True)
        )
        return [Group("q", "AVTR", prompt, None, made, tuple(Reward(v, {}) for v in (1.0, 0.0, 1.0, 0.0)))]

    learner = build(folder, tmp_path, settings(rate=3e-3), source, 6, rows=4)
    learner.train()
    assert likely[-1] > likely[0] + 1.0


@pytest.mark.parametrize("lora", [LoraConfig(rank=4), None], ids=["adapter", "whole"])
def test_the_reference_is_the_start_and_frozen_weights_stay(folder, tmp_path, lora):
    told = []
    learner = None
    config = settings(lora=lora, kl=0.1, freeze_vision=True)
    learner = build(
        folder, tmp_path, config, lambda step: groups(learner.processing_class), 2, lambda *n: told.append(n[1])
    )
    before = {name: value.clone() for name, value in learner.model.named_parameters()}
    assert not any("visual" in name for name in before)
    tower = [weight.clone() for weight in unwrapped(learner.model).model.visual.parameters()]
    learner.train()
    moved = {name for name, value in learner.model.named_parameters() if (before[name] != value).any()}
    assert moved and all("lora_" in name for name in moved) == (lora is not None)
    assert told[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert told[1]["kl"] > 0
    after = unwrapped(learner.model).model.visual.parameters()
    assert all(torch.equal(one, other) for one, other in zip(tower, after, strict=True))


def test_beside_an_adapter_all_is_bfloat16_and_saved_whole(folder, tmp_path):
    """The adapter alone is float32; what is saved holds the tower, which is none of the trainer's modules."""
    config = settings(lora=LoraConfig(rank=4), freeze_vision=True, dtype="bfloat16")
    learner = build(folder, tmp_path, config, lambda step: groups(learner.processing_class))
    learner.train()
    kinds = {"lora_" in name: set() for name, _ in learner.model.named_parameters()}
    for name, value in learner.model.named_parameters():
        kinds["lora_" in name].add(value.dtype)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    save_policy_model(learner.model, learner.processing_class, tmp_path / "saved", 0)
    saved, start = load_tiny(tmp_path / "saved")[0].state_dict(), load_tiny(folder)[0].state_dict()
    assert saved.keys() == start.keys()
    for name, value in start.items():
        wanted = value.bfloat16().float()
        same = torch.equal(saved[name], wanted)
        assert same == ("_proj.weight" not in name or "visual" in name), name


@pytest.mark.parametrize(("broken", "message"), [(math.nan, "reward of When is 0"), (math.inf, "not a finite number")])
def test_a_reward_that_is_no_number_stops_the_run_before_anything_moves(folder, tmp_path, broken, message):
    learner = build(folder, tmp_path, settings(), lambda step: bad)
    forward = VideoForward(learner.processing_class, FAMILY)
    bad = [made_up_group(forward, "When is 0?", None, (broken, 0.0, 1.0, 0.0))] * 2
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    with pytest.raises(AbortError, match=message):
        learner.train()
    assert all((before[name] == value).all() for name, value in learner.model.state_dict().items())


def test_a_loss_that_is_not_finite_stops_before_the_optimizer(folder, tmp_path):
    learner = build(folder, tmp_path, settings(), lambda step: groups(learner.processing_class))
    with torch.no_grad():
        learner.model.lm_head.weight[5, 3] = math.nan
    before = learner.model.model.language_model.norm.weight.clone()
    with pytest.raises(AbortError, match="the loss is nan in step 1"):
        learner.train()
    assert (learner.model.model.language_model.norm.weight == before).all()


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["full", "lora"])
def test_a_resumed_run_ends_where_a_straight_one_does(folder, tmp_path, lora):
    """Weights, Adam's moments and the count of steps come back: 2 + 2 steps are 4."""
    ends, learner = [], None
    config = settings(lora=lora, freeze_vision=True)
    for checkpoint in (None, str(tmp_path / "checkpoint-2")):
        model, processor, adapter, family = load_policy(str(folder), config)
        args = trainer_arguments(
            config, tmp_path, rows=8, group_size=4, max_tokens=16, max_steps=4, seed=0, save_every=2
        )
        asked = []

        def source(step, asked=asked, processor=processor):
            asked.append(step)
            return groups(processor)

        learner = GRPOLearner(
            model, args, processor, family, source, temperature=1.0, frozen_vision=True, peft_config=adapter
        )
        learner.train(resume_from_checkpoint=checkpoint)
        assert asked == ([2, 3] if checkpoint else [0, 1, 2, 3])
        ends.append(policy_state(learner.model, frozen_vision=True))
    if lora is not None:  # the checkpoint holds the adapter and its optimizer's moments, and nothing of the base
        trained = [value.numel() for value in learner.model.parameters() if value.requires_grad]
        kept = load_file(tmp_path / "checkpoint-2" / "adapter_model.safetensors")
        assert all("lora_" in name for name in kept) and sum(one.numel() for one in kept.values()) == sum(trained)
        base = [value.numel() for value in learner.model.parameters() if not value.requires_grad]
        files = [path.stat().st_size for path in (tmp_path / "checkpoint-2").rglob("*")]
        assert sum(files) < 4 * sum(base)
    start = {name: value.numpy() for name, value in load_policy(str(folder), config)[0].state_dict().items()}
    assert max(np.abs(ends[0][name] - start[name]).max() for name in ends[0]) > 1e-3
    for name, value in ends[0].items():
        assert np.abs(ends[1][name] - value).max() < 1e-6, name


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("_load_from_checkpoint", ["self", "resume_from_checkpoint", "model"]),
        ("_prepare_inputs", ["self", "generation_batch"]),
        ("_compute_loss", ["self", "model", "inputs"]),
        ("_save_checkpoint", ["self", "model", "trial"]),
        ("_save_optimizer_and_scheduler", ["self", "output_dir"]),
        ("_load_optimizer_and_scheduler", ["self", "checkpoint"]),
        ("save_model", ["self", "output_dir", "_internal_call"]),
        ("log", ["self", "logs", "start_time"]),
        ("get_train_dataloader", ["self"]),
    ],
)
def test_trls_private_methods_are_as_we_override_them(method, names):
    assert list(inspect.signature(getattr(GRPOTrainer, method)).parameters) == names


def test_trls_loss_asks_for_log_probs_as_we_give_them():
    asked = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert asked[:7] == [
        "self",
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
    ]
    source = inspect.getsource(GRPOTrainer._compute_loss)
    for key in ("importance_sampling_ratio", "old_per_token_logps", "ref_per_token_logps", "num_items_in_batch"):
        assert f'"{key}"' in source
