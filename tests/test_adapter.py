"""An adapter that is sent alone: its files against PEFT's own, and a real engine beside the learner."""

import asyncio
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import ray
import torch
from safetensors.torch import load_file

from ravst_ray.config.base import load_config
from ravst_ray.config.train import LearnerConfig, LoraConfig, TrainConfig
from ravst_ray.config.video_llm import SamplingConfig
from ravst_ray.policy.adapter import no_change, write_adapter
from ravst_ray.training.forward import VideoForward
from ravst_ray.training.groups import Group
from ravst_ray.training.plan import fitted
from ravst_ray.training.policy_loading import load_policy
from ravst_ray.training.sync_proof import logprob_gap
from ravst_ray.training.transport import open_transport
from ravst_ray.training.weights import adapter_state, policy_state
from tests.families import FAMILY_CASES
from tests.test_video_llm import QUESTION, serving
from tests.tiny_policies import tiny_policy

pytestmark = pytest.mark.timeout(600)
CONFIGS = Path(__file__).parents[1] / "jobs/configs"
CASES = [case for case in FAMILY_CASES if case.name != "qwen3_vl"]
LORA = LoraConfig(rank=4, alpha=6)


def settings(*more, base="train_laptop"):
    return load_config(TrainConfig, CONFIGS / f"{base}.yaml", ["output=out", "model=m", *more])


def adapted(folder, lora=LORA, seed=0):
    """The policy of a folder with an adapter that does something."""
    model, _, adapter, _ = load_policy(str(folder), LearnerConfig(lora=lora, dtype="float32"))
    made = peft.get_peft_model(model, adapter).eval()
    stir(made, seed)
    return made


def stir(model, seed):
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value += 0.1 * torch.randn(value.shape, generator=rng)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("policy"), seed=5)


@pytest.mark.parametrize(
    ("given", "because"),
    [
        ([], None),
        (["rollouts.num_gpus=1", "learner.num_gpus=1"], None),
        (["sync.adapter=merged"], None),
        (["rollouts.num_gpus=1", "learner.num_gpus=1", "sync.transport=nccl"], "sync.transport = nccl sends whole"),
        (["rollouts.num_gpus=1", "engine.dtype=float32"], "engine.dtype = float32"),
        (["learner.lora.rank=513"], "learner.lora.rank = 513 is above"),
        (["learner.lora.targets=[q_proj, lm_head]"], "vLLM adapts no lm_head of Qwen2.5-VL"),
    ],
)
def test_an_adapter_is_sent_alone_unless_something_is_in_its_way(folder, caplog, given, because):
    caplog.set_level(logging.WARNING)
    config = fitted(settings("learner.lora={rank: 4}", f"model={folder}", *given))
    alone = because is None and "sync.adapter=merged" not in given
    assert config.ships_adapter == alone
    assert not alone or config.transport == "object_store"
    assert [because in line for line in caplog.messages] == ([True] if because else [])


def test_an_engine_that_sleeps_without_weights_gets_whole_ones():
    assert settings(base="train_1gpu").ships_adapter
    asleep = settings("rollouts.sleep_level=2", base="train_1gpu")
    assert not asleep.ships_adapter and asleep.transport == "ipc"
    assert not settings().ships_adapter  # no adapter at all


def test_the_adapters_files_are_what_peft_makes_of_it(folder, tmp_path):
    """By PEFT's own save of the same adapter, and by its outputs when PEFT loads ours."""
    made = adapted(folder)
    made.save_pretrained(tmp_path / "peft")
    write_adapter(tmp_path / "ours", adapter_state(made), LORA)
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "peft"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    told, known = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "peft"))
    assert {key: told[key] for key in ("r", "lora_alpha")} == {key: known[key] for key in ("r", "lora_alpha")}
    plain = load_policy(str(folder), LearnerConfig(dtype="float32")).model
    again = peft.PeftModel.from_pretrained(plain, tmp_path / "ours").eval()
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, made(input_ids=ids).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("adapter", ["auto", "merged"])
def test_a_sync_sends_the_adapter_alone_and_tells_its_bytes(folder, monkeypatch, adapter):
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray, "put", lambda value: value)
    sent = []
    manager = SimpleNamespace(publish=SimpleNamespace(remote=lambda weights: sent.append(weights) or 0.5))
    made = adapted(folder)
    sender = open_transport(settings(f"learner.lora={{rank: {LORA.rank}}}", f"sync.adapter={adapter}"), manager, 0)
    sender.publish(made, 7)
    assert sender.settled() == 0.5
    assert sent[0].version == 7
    layers = [layer.base_layer for layer in made.modules() if hasattr(layer, "lora_A")]
    if adapter == "merged":
        assert sent[0].state[0].keys() == policy_state(made, True).keys()
        assert sender.sent_bytes == 4 * sum(value.size for value in sent[0].state[0].values())
    else:
        assert len(sent[0].state[0]) == 2 * len(layers)
        assert sender.sent_bytes == 4 * LORA.rank * sum(one.in_features + one.out_features for one in layers)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def served(request, tmp_path_factory):
    """An engine that adds adapters to its model."""
    with serving(request.param, tmp_path_factory.mktemp("policy"), adapter=LORA) as one:
        yield one


def test_a_prompt_that_comes_during_the_first_update_gets_its_adapter(served, tmp_path, monkeypatch):
    """Before it the engine has the base model."""
    assert served.gap(None, served.learners(served.model)) < 1e-4
    model = adapted(served.folder, seed=9)
    served.version += 1
    write_adapter(tmp_path / "a", adapter_state(model), LORA)
    settled = SamplingConfig(max_tokens=12, temperature=0.7, n=4, seed=1)

    load, asked = served.engine.engine.add_lora, []

    async def loading(request):
        asked.append(asyncio.ensure_future(served.engine.generate(QUESTION, None, settled, logprobs=True)))
        await asyncio.sleep(0.2)
        assert not asked[0].done()
        return await load(request)

    async def meanwhile():
        await served.engine.set_weights(str(tmp_path / "a"), served.version)
        return await asked[0]

    monkeypatch.setattr(served.engine.engine, "add_lora", loading)
    made = served.run(meanwhile())
    assert served.distance(made, None, served.learners(model)) < 1e-4
    assert {version for one in made.completions for version in one.versions} == {served.version}


def test_log_probs_follow_updates_of_the_adapter_alone(served, tmp_path):
    """As the learner's, of the same prompts each time."""
    model, clip = adapted(served.folder), served.case.clip("long", 66, 2)
    first, held = served.version, [served.engine.weights]
    for update in range(1, 4):
        stir(model, update)
        served.version += 1
        write_adapter(tmp_path / str(update), adapter_state(model), LORA)
        served.run(served.engine.set_weights(str(tmp_path / str(update)), served.version))
        held.append(served.engine.weights)
        for shown in (clip, None):
            assert served.gap(shown, served.learners(model)) < 1e-4, update
            assert served.gap(shown, served.learners(served.model)) > 0.01, update
    assert [version for version, _ in held] == list(range(first, first + 4))
    assert len({checksums for _, checksums in held}) == 4
    made = served.generate(clip, True, n=4, temperature=1.0, max_tokens=24)
    group = Group("q", None, made.prompt_ids, clip, made.completions, ())
    assert logprob_gap(model, VideoForward(served.processor, served.case.family), [group]) < 1e-4


def test_after_an_adapter_that_cannot_be_loaded_the_next_can(served, tmp_path):
    model = adapted(served.folder, seed=4)
    write_adapter(tmp_path / "right", adapter_state(model), LORA)
    wide = LORA.model_copy(update={"rank": 64})
    write_adapter(tmp_path / "wide", no_change(wide), wide)
    with pytest.raises(Exception, match="LoRA rank 64 is greater than max_lora_rank"):
        served.run(served.engine.set_weights(str(tmp_path / "wide"), served.version + 1))
    before = served.engine.weights
    served.version += 1
    served.run(served.engine.set_weights(str(tmp_path / "right"), served.version))
    assert served.engine.weights[0] == served.version and served.engine.weights[1] != before[1]
    assert served.gap(None, served.learners(model)) < 1e-4
