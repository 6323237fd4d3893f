"""A step of GRPO and of supervised training on each family, against plain PyTorch with transformers' own forward."""

import math

import pytest
import torch

from ravst_ray.config.sft import SftConfig
from ravst_ray.config.train import LearnerConfig, LoraConfig
from ravst_ray.training.arguments import trainer_arguments
from ravst_ray.training.forward import Row, VideoForward, unwrapped
from ravst_ray.training.learner import GRPOLearner
from ravst_ray.training.policy_loading import load_policy
from ravst_ray.training.sft import build_sft, example
from tests.families import FAMILY_CASES, picked
from tests.tiny_policies import made_up_group

REWARDS = [(1.0, 0.0, 0.5, 0.25), (0.0, 2.0, 0.0, 0.0)]


@pytest.fixture(scope="module", params=FAMILY_CASES, ids=lambda c: c.name)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def folder(case, tmp_path_factory):
    return case.save(tmp_path_factory.mktemp("policy"), seed=7)


def build(case, folder, tmp_path, **more):
    """A learner of two groups."""
    plain = {"rate": 1e-2, "micro_batch": 4, "freeze_vision": False, "schedule": "constant", "dtype": "float32"}
    config = LearnerConfig(**{**plain, **more})
    policy = load_policy(str(folder), config)
    forward = VideoForward(policy.processor, policy.family)
    given = [
        made_up_group(forward, f"When is {n}?", case.clip(f"c{n}", 4 + n, n), rewards, seed=n)
        for n, rewards in enumerate(REWARDS)
    ]
    told = []
    learner = GRPOLearner(
        policy.model,
        trainer_arguments(config, tmp_path, rows=8, group_size=4, max_tokens=16, max_steps=2, seed=0),
        policy.processor,
        policy.family,
        lambda step: given,
        temperature=1.0,
        frozen_vision=config.freeze_vision,
        on_step=lambda _, numbers: told.append(numbers),
        peft_config=policy.adapter,
    )
    return learner, given, told


def test_the_gradient_of_grpo_is_that_of_plain_pytorch(case, folder, tmp_path):
    """DAPO's loss (2503.14476, eq. 8) at the start, where the ratio to the old policy is 1 and nothing is clipped."""
    learner, given, _ = build(case, folder, tmp_path, loss="dapo", correct_importance=False)
    learner.model.train()
    learner.current_gradient_accumulation_steps = learner.args.gradient_accumulation_steps
    for inputs in learner.micro_batches(given):
        learner._compute_loss(learner.model, inputs).backward()
    model, processor = case.load(folder)
    parts = []
    for group in given:
        rewards = torch.tensor(group.totals)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        for one, advantage in zip(group.completions, advantages, strict=True):
            row = Row(group.prompt_ids, one.token_ids, group.clip)
            parts.append(-advantage * picked(case.score(model, processor, row), row))
    (torch.cat(parts).sum() / sum(len(part) for part in parts)).backward()
    wanted = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    found = {name: value.grad for name, value in learner.model.named_parameters() if value.grad is not None}
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, atol=1e-5), name
    for tower in case.family.learner().towers:
        assert max(value.abs().max() for name, value in wanted.items() if name.startswith(tower)) > 1e-5


def test_an_adapter_sits_in_the_language_model_and_moves_alone(case, folder, tmp_path):
    """In bfloat16 beside it, with frozen towers and checkpointing, as on a card."""
    more = {"lora": LoraConfig(rank=4), "freeze_vision": True, "dtype": "bfloat16", "gradient_checkpointing": True}
    learner, _, told = build(case, folder, tmp_path, **more)
    before = {name: value.clone() for name, value in learner.model.named_parameters()}
    learner.train()
    moved = {name for name, value in learner.model.named_parameters() if (before[name] != value).any()}
    assert moved and all("lora_" in name for name in moved)
    adapted = [name for name, module in unwrapped(learner.model).named_modules() if hasattr(module, "lora_A")]
    layers = unwrapped(learner.model).get_submodule(case.decoder).layers
    assert len(adapted) == len(layers) * len(LoraConfig().targets)
    assert all(name.startswith(f"{case.decoder}.layers.") for name in adapted)
    assert all(math.isfinite(numbers["loss"]) and numbers["grad_norm"] > 0 for numbers in told)


def test_frozen_towers_are_those_that_transformers_loads_in_half_precision(case, folder):
    """What is no weight (the frequencies of rotary positions) keeps its own precision."""
    side, clip = case.family.learner(), case.clip(frames=6)
    policy = load_policy(str(folder), LearnerConfig(freeze_vision=True, dtype="bfloat16"))
    whole = side.load(str(folder), torch.bfloat16).eval()
    with torch.no_grad():
        found, wanted = (side.features(one, [side.encode(policy.processor, clip)])[0] for one in (policy.model, whole))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    for path in side.towers:
        kept = dict(policy.model.get_submodule(path).named_buffers())
        assert kept
        for name, value in whole.get_submodule(path).named_buffers():
            assert kept[name].dtype == value.dtype and torch.equal(kept[name], value), name


def test_a_supervised_step_is_plain_cross_entropy(case, folder, tmp_path):
    model, processor = case.load(folder)
    forward = VideoForward(processor, case.family)
    clips = (case.clip("a", 4, 1), case.clip("b", 3, 2), None, case.clip("c", 6, 3))
    answers = ("<answer>\n</answer>", "red drum", "<when>[1.0, 2.5]</when>", "green")
    rows = [example(forward, "When?", *both) for both in zip(answers, clips, strict=True)]
    steps = []
    settings = SftConfig(rate=1e-2, batch=4, micro_batch=2, freeze_vision=False, max_steps=1)
    build_sft(folder, settings, rows, tmp_path / "out", on_step=lambda _, numbers: steps.append(numbers)).train()
    loss = -torch.cat([picked(case.score(model, processor, row, banned=False), row) for row in rows]).mean()
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
    assert steps[0]["loss"] == pytest.approx(loss.item(), abs=1e-4)
    assert steps[0]["grad_norm"] == pytest.approx(norm, rel=1e-3)
