"""What a training run takes: shapes against real architectures, parts against what torch allocates, refusals."""

import io
from pathlib import Path

import peft
import pytest
import torch
import transformers
from rich.console import Console

from ravst_ray.config.base import load_config
from ravst_ray.config.train import TrainConfig
from ravst_ray.errors import ConfigError
from ravst_ray.models.shape import KNOWN, ModelShape, shape_of
from ravst_ray.models.size import weight_bytes
from ravst_ray.toyworld.training.policy_omni import save_omni
from ravst_ray.toyworld.training.policy_qwen3 import save_qwen3
from ravst_ray.training import activations, head
from ravst_ray.training.activations import Batch, batch_of
from ravst_ray.training.card_check import check_cards
from ravst_ray.training.forward import Row, VideoForward
from ravst_ray.training.memory import Budget, estimate
from ravst_ray.training.memory_table import CARDS, budget_table, markdown, smallest_card
from ravst_ray.training.policy_loading import load_policy
from tests.test_attention import peak_bytes
from tests.tiny_policies import tiny_policy

CONFIGS = Path(__file__).parents[1] / "jobs" / "configs"
GIB = 2**30


def known(model: str) -> ModelShape:
    shape = shape_of(model)
    assert shape is not None
    return shape


def shipped(name: str, *overrides: str) -> TrainConfig:
    return load_config(TrainConfig, CONFIGS / f"train_{name}.yaml", overrides)


# -- shapes


def parameters(module: torch.nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def built(name: str) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
    """A known model as transformers builds it of these numbers, without memory; and its towers."""
    shape = KNOWN[name]
    text = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
    }
    sees = {
        "depth": shape.tower.layers,
        "hidden_size": shape.tower.hidden,
        "intermediate_size": shape.tower.intermediate,
        "out_hidden_size": shape.hidden,
        "num_heads": 16,
    }
    if "omni" in name:
        hears = {"encoder_layers": 32, "d_model": 1280, "encoder_ffn_dim": 5120, "output_dim": shape.hidden}
        hears |= {"encoder_attention_heads": 20, "num_mel_bins": 128}
        config = transformers.Qwen2_5OmniThinkerConfig(text_config=text, vision_config=sees, audio_config=hears)
        model = transformers.Qwen2_5OmniThinkerForConditionalGeneration(config)
        return model, [model.visual, model.audio_tower]
    family, layers = "Qwen2_5_VL", {}
    if name.startswith("qwen3"):
        family, layers = "Qwen3VL", {"deepstack_visual_indexes": [5, 11, 17]}
    config = getattr(transformers, f"{family}Config")(
        text_config=text, vision_config=sees | layers, tie_word_embeddings=shape.tied
    )
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    return model, [model.model.visual]


@pytest.mark.parametrize("name", KNOWN)
def test_known_shapes_have_the_parameters_of_the_real_architecture(name):
    with torch.device("meta"):
        model, towers = built(name)
    shape = KNOWN[name]
    assert shape.parameters == parameters(model)
    assert shape.tower.parameters == sum(map(parameters, towers))
    assert weight_bytes(f"org/{name}-instruct", 1) == pytest.approx(shape.parameters, rel=0.001)


@pytest.mark.parametrize("save", [tiny_policy, save_qwen3, save_omni])
def test_a_directory_tells_its_shape(save, tmp_path):
    folder = str(save(tmp_path / "model"))
    shape = known(folder)
    assert shape.parameters == pytest.approx(weight_bytes(folder, 1), rel=0.001)
    assert shape.tower.features == (4 if save is save_qwen3 else 1)
    assert shape.tower.hears == (save is save_omni)
    assert shape_of(str(tmp_path / "no-model")) is None


# -- a micro-batch


def test_the_largest_micro_batch_of_a_shipped_configuration():
    """3584 * 28 * 28 pixels make 1,792 tokens; one prompt stands before the completions of its group."""
    config = shipped("8gpu")
    shape = known(config.model)
    assert batch_of(config, shape) == Batch(1, 1792, 0, 1792 + 1024 + 8 * 1024, 8 * 1024, 3 * 2_809_856)
    alone = batch_of(shipped("8gpu", "learner.share_prompts=false", "engine.max_model_len=2048"), shape)
    assert alone.tokens == 8 * (2048 + 1024), "each with its prompt, which is never longer than the engine's limit"
    omni = shipped("omni")
    assert batch_of(omni, known(omni.model)).heard == 64 * 25, "a second of sound is 25 tokens"
    assert activations.CHUNK == head.CHUNK


def passing(mode: str, folder: Path) -> tuple[float, float]:
    """Bytes above states: as estimated, and the most that torch's allocator gave away in forward and backward."""
    prompt, answer, group = 200, 100, 4
    learner = {"micro_batch": group, "num_gpus": 1, "gradient_checkpointing": "again" in mode, "dtype": "bfloat16"}
    learner |= {"shard": "sharded" in mode} | ({"lora": {"rank": 8}} if "adapter" in mode else {})
    data = {"data": {"annotations": "a", "videos": "v"}, "output": "o", "model": str(folder), "learner": learner}
    config = TrainConfig.model_validate(data | {"rollouts": {"group_size": group, "prompts_per_step": 1}})
    policy = load_policy(config.model, config.learner)
    model = policy.model.to(torch.bfloat16) if config.learner.shard else policy.model  # as FSDP2 computes
    if policy.adapter is not None:
        model = peft.get_peft_model(model, policy.adapter)
        model.enable_input_require_grads()
    if config.learner.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    learning = [one for one in model.train().parameters() if one.requires_grad]
    for one in learning:
        one.data, one.grad = (part.float() if "adapter" in mode else part for part in (one.data, torch.zeros_like(one)))
    forward, draw = VideoForward(policy.processor, policy.family), torch.Generator().manual_seed(1)
    asked, *answers = (torch.randint(10, 400, (n,), generator=draw).tolist() for n in (prompt, *[answer] * group))

    def compute() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            scores = forward.score(model, [Row(asked, one) for one in answers], entropies=True)
        scores.logps.sum().backward()

    compute()
    shape = known(config.model)
    inputs = (config, shape, Batch(1, 0, 0, prompt + group * answer, group * answer, 0))
    backward, logits = activations.backward_bytes(*inputs), activations.logit_bytes(*inputs)
    copies = 2 * shape.language if mode == "all weights" else 0  # autocast's, which the backward needs
    return activations.kept_bytes(*inputs) + max(backward, logits) + copies, peak_bytes(compute)


def test_logits_are_what_a_card_was_measured_with():
    """README, the output layer of a 7B policy on an H200: GiB above what was there, the gradient of 2.03 included."""
    config = shipped("8gpu", "learner.shard=false")
    for tokens, measured in ((512, 2.40), (2048, 2.42), (8192, 2.51)):
        batch = Batch(1, 0, 0, tokens, tokens, 0)
        assert activations.logit_bytes(config, known(config.model), batch) / GIB == pytest.approx(measured, rel=0.03)


MODES = [
    *((mode, tiny_policy) for mode in ("all weights", "sharded", "sharded, again", "adapter", "adapter, again")),
    ("sharded", save_qwen3),
]


@pytest.mark.parametrize(("mode", "save"), MODES)
def test_activations_and_logits_are_what_torch_allocates(mode, save, tmp_path):
    """Without a GPU; ``again``: with gradient checkpointing."""
    estimated, allocated = passing(mode, save(tmp_path, hidden=256, layers=4))
    assert allocated * 0.97 <= estimated <= allocated * 1.15


# -- a run


def budget_of(config: TrainConfig) -> Budget:
    budget = estimate(config)
    assert budget is not None
    return budget


def test_the_parts_of_a_run_by_arithmetic():
    """7B: 7,615,616,512 parameters learn, the tower of 676,550,144 stands aside."""
    language, tower = 7_615_616_512, 676_550_144
    budget = budget_of(shipped("paper"))
    parts = dict(budget.learner.parts)
    assert [parts[f"of {what}"] for what in ("weights", "gradients", "Adam's moments")] == [
        language / 4 * size for size in (4, 4, 8)
    ]
    assert parts["of the frozen tower"] == 2 * tower
    assert parts["of the start model"] == language / 4 * 2
    assert not any("pass" in what for what in parts), "the start model comes together by layer, as the policy does"
    assert dict(budget.disk.parts) == {"of 3 checkpoints": 3 * 12 * language, "of the model": 4 * (language + tower)}
    assert dict(budget.host.parts)["for loading"] == (language + tower) * (4 + 2), "rank 0 alone"
    assert dict(budget.host.parts)["of a checkpoint on its way"] == 12 * language
    each = dict(budget_of(shipped("paper", "learner.shard=false")).host.parts)
    assert each["for loading"] == 4 * (language + tower) * (4 + 2)
    assert dict(budget.engine.parts)["of weights"] == 2 * (language + tower)
    assert dict(budget.engine.parts)["for the cache of 8192 tokens"] == 8192 * 28 * 2 * 4 * 128 * 2
    tied = dict(budget_of(shipped("paper", "model=Qwen/Qwen2.5-VL-3B-Instruct")).disk.parts)
    assert tied["of 3 checkpoints"] == 3 * 12 * (3_754_622_976 - 668_684_288)
    stored = budget_of(shipped("paper", "output=s3://bucket/run"))
    assert dict(stored.disk.parts)["of 2 checkpoints"] == 2 * 12 * language, "of a node"


def test_an_adapter_and_ddp_by_arithmetic():
    """3B with an adapter of rank 32 on seven modules, on a card that an engine shares."""
    layer = 2 * (2048 + 2048) + 2 * (2048 + 256) + 3 * (2048 + 11008)  # in and out: q o, k v, gate up down
    adapter, base = 36 * 32 * layer, 3_754_622_976 - 668_684_288
    parts = dict(budget_of(shipped("1gpu")).learner.parts)
    assert parts["of weights"] == 2 * base + 4 * adapter
    assert parts["of Adam's moments"] == 8 * adapter
    assert parts["for DDP's buckets"] == 4 * adapter
    whole = dict(budget_of(shipped("1gpu", "learner.lora=null", "learner.gradient_checkpointing=false")).learner.parts)
    assert whole["for cast weights"] == 2 * base, "as autocast makes them, for the backward"


@pytest.mark.parametrize(
    ("name", "gib", "overrides", "said"),
    [
        ("8gpu", 79.2, (), None),
        ("8gpu", 39.5, (), "a learner needs 7.1 GiB of weights .* or take cards of 43 GiB or more$"),
        ("8gpu", 44.9, ("learner.gradient_checkpointing=false",), "set learner.gradient_checkpointing=true$"),
        ("8gpu", 79.2, ("learner.shard=false",), "= 1\d\d.\d GiB; set learner.shard=true$"),
        ("1gpu", 44.9, ("engine.gpu_memory_utilization=0.15",), "of its 6.7 GiB .*; set .*utilization=0.25$"),
        ("1gpu", 44.9, ("engine.gpu_memory_utilization=0.9",), "beside it the learner keeps .*utilization=0.25$"),
        ("1gpu", 44.9, (), None),
        ("1gpu", 44.9, ("engine.gpu_memory_utilization=0.75",), None),  # the learner works while the engine sleeps
        ("1gpu", 44.9, ("engine.gpu_memory_utilization=0.75", "rollouts.share_gpu=false"), "keeps .* of features"),
        ("1gpu", 15.7, ("learner.lora=null",), "train an adapter"),
    ],
)
def test_what_no_card_can_hold_is_refused_with_what_fits(name, gib, overrides, said):
    config, cards = shipped(name, *overrides), [int(gib * GIB)]
    if said is None:
        return check_cards(config, cards)
    with pytest.raises(ConfigError, match=said) as refused:
        check_cards(config, cards)
    if "; set " in str(refused.value):
        check_cards(shipped(name, *overrides, *str(refused.value).rsplit("; set ")[1].split(" and ")), cards)


def test_what_isnt_known_or_may_fail_is_told(tmp_path, caplog):
    check_cards(shipped("8gpu", "model=org/unheard-of"), [2**30])
    assert "nothing tells how org/unheard-of is built" in caplog.text
    config = tmp_path / "config.json"
    config.write_text('{"text_config": {"hidden_size": 64, "num_attention_heads": 0}, "vision_config": {}}')
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 9)
    check_cards(shipped("8gpu", f"model={tmp_path}"), [2**30])
    assert f"nothing tells how {tmp_path} is built" in caplog.text
    check_cards(shipped("8gpu"), [])
    assert "no card is there yet; the run is for cards of 4" in caplog.text
    check_cards(shipped("8gpu"), [80 * GIB, 24 * GIB])
    assert "a node's card has 24.0 GiB: the run fails if it gets that one" in caplog.text
    caplog.clear()
    check_cards(shipped("laptop"), [])
    assert not caplog.text, "it needs no card"


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_of_a_run(width):
    config = shipped("8gpu")
    budget = budget_of(config)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(budget_table(budget, config, 40 * GIB))
    told = console.export_text()
    assert max(map(len, told.splitlines())) <= width
    rows = [line.split() for line in told.splitlines()]
    assert ["Adam's", "moments", "14.2", "34%"] in rows and ["together", f"{budget.learner.total / GIB:.1f}"] in rows
    assert " ".join(told.split()).endswith("the card here has 40.0 GiB: TOO LITTLE")


def test_the_documented_tables_are_those_of_the_shipped_files():
    files = [(path.stem, load_config(TrainConfig, path)) for path in sorted(CONFIGS.glob("train_*.yaml"))]
    table = markdown(files)
    assert table in (CONFIGS.parents[1] / "docs" / "training.md").read_text()
    told = {name: smallest_card(budget_of(config)) for name, config in files if "laptop" not in name}
    assert told == dict.fromkeys(told, "80 GB") | {"train_1gpu": "40 GB"}
    assert list(CARDS.values()) == sorted(CARDS.values())
