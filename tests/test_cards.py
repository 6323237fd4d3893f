"""Models against cards: what they weigh, what they need beside that, and what a run is told that can't fit."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ravst_ray.annotate import run
from ravst_ray.annotate.cards import check_cards
from ravst_ray.annotate.grounding import build_ground
from ravst_ray.config.annotate import AnnotateConfig, GroundingConfig, LLMConfig
from ravst_ray.config.base import load_config
from ravst_ray.errors import ConfigError
from ravst_ray.grounding.grounding_dino import GroundingDino
from ravst_ray.grounding.sam2 import Sam2Video
from ravst_ray.language import local as local_llm
from ravst_ray.language.local import LocalLLM
from ravst_ray.models import cards
from ravst_ray.models.cards import grounding_need, server_need
from ravst_ray.models.size import card_bytes, kv_bytes_per_token, sees, weight_bytes
from tests.tiny_models import save_detector, save_segmenter

CONFIGS = Path(__file__).parents[1] / "jobs" / "configs"
SHIPPED = sorted(CONFIGS.glob("annotate_*.yaml"))
MIB, GIB = 2**20, 2**30
CARDS = {24: 23_034 * MIB, 40: 40_960 * MIB, 80: 81_559 * MIB}  # as nvidia-smi says: L4, A100, H100; a 4090 has more
ONE_GPU = CONFIGS / "annotate_1gpu.yaml"


def shipped(path: Path, *overrides: str) -> AnnotateConfig:
    return load_config(AnnotateConfig, path, overrides)


def refusal(config: AnnotateConfig, card: int) -> str | None:
    try:
        check_cards(config, card)
    except ConfigError as error:
        return str(error)
    return None


def write_model(folder: Path, tensors: dict[str, torch.Tensor], config: dict) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture
def a_card(tmp_path, monkeypatch):
    """This machine seems to have cards of so many MiB."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(*sizes_mib: int) -> None:
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        lines = "".join(f"echo {size}\n" for size in sizes_mib)
        tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{lines}')
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")

    return put


# -- what models weigh


@pytest.mark.parametrize(("dtype", "each"), [("float32", 4), ("bfloat16", 2)])
def test_weights_are_those_of_the_loaded_models(tmp_path, dtype, each):
    places = save_detector(tmp_path / "detector"), save_segmenter(tmp_path / "segmenter", torch.float16)
    loaded = GroundingDino(places[0], device="cpu", dtype=dtype), Sam2Video(places[1], device="cpu", dtype=dtype)
    for place, backend in zip(places, loaded, strict=True):
        parameters = sum(one.numel() * one.element_size() for one in backend.model.parameters())
        assert weight_bytes(place, each) == pytest.approx(parameters, rel=0.01)  # and a few saved buffers


def test_packed_numbers_stay_packed_and_no_file_counts_twice(tmp_path):
    tensors = {"a": torch.zeros(10, 30), "b": torch.zeros(50, dtype=torch.int32), "c": torch.zeros(7, dtype=torch.int8)}
    model = write_model(tmp_path / "packed", tensors, {})
    assert weight_bytes(model, 2) == 300 * 2 + 50 * 4 + 7
    save_file(tensors, tmp_path / "packed" / "consolidated.safetensors")
    assert weight_bytes(model, 2) == 807
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(3):
        save_file({f"w{number}": torch.zeros(100, dtype=torch.bfloat16)}, shards / f"model-{number}.safetensors")
    index = {"weight_map": {"w0": "model-0.safetensors", "w1": "model-1.safetensors"}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_bytes(str(shards), 2) == 400, "the third is named by nothing"


def test_a_hub_name_is_measured_where_the_cache_has_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert weight_bytes("IDEA-Research/grounding-dino-base", 2) == 2 * 232_300_000
    kept = tmp_path / "models--IDEA-Research--grounding-dino-base"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("abc")
    write_model(kept / "snapshots" / "abc", {"a": torch.zeros(1000)}, {})
    assert weight_bytes("IDEA-Research/grounding-dino-base", 2) == 2000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("models/Qwen2.5-7B-Instruct", 7.616e9 * 2),
        ("/nowhere/Qwen2.5-VL-7B-Instruct/", 8.292e9 * 2),
        ("models/Some-8B-Chat", 8e9 * 1.1 * 2),
        ("org/Other-30B-A3B", 30e9 * 1.1 * 2),
        ("org/Some-7B-Instruct-AWQ", 7e9 * 1.1 / 2),
        ("org/Some-7B-FP8", 7e9 * 1.1),
        ("models/my-model", None),
        ("models/b2b", None),
    ],
)
def test_a_name_tells(name, expected):
    assert weight_bytes(name, 2) == (expected and round(expected))


def test_the_cache_of_a_token(tmp_path):
    qwen = {"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_size": 3584}
    text = write_model(tmp_path / "text", {"a": torch.zeros(1)}, qwen)
    sight = write_model(tmp_path / "sight", {"a": torch.zeros(1)}, {"text_config": qwen, "vision_config": {}})
    for model in (text, sight):
        assert kv_bytes_per_token(model) == 2 * 28 * 4 * 128 * 2  # keys and values, layers, heads, width, 16 bits
    assert (sees(text), sees(sight), sees("m/Qwen2.5-VL-3B-Instruct"), sees("m/Qwen2.5-3B")) == (
        False,
        True,
        True,
        False,
    )
    short = server_need(LLMConfig(model_dir=text, max_model_len=1000))
    assert dict(short.parts)["for the cache of 1000 tokens"] == 1000 * 57_344


# -- what is shipped


@pytest.mark.parametrize("size", CARDS)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_is_shipped_fits_the_card_that_it_names(path, size):
    config = shipped(path)
    assert refusal(config, CARDS[size]) is None
    if path.stem == "annotate_laptop":
        assert config.actors.llm.num_gpus == config.actors.ground.num_gpus == 0
    else:
        assert refusal(config, 4 * GIB), "the check is made"


def test_the_captioner_has_room_for_its_pictures():
    path = CONFIGS / "annotate_captioner.yaml"
    config = shipped(path)
    picture = (round(config.decode.max_side_px / 28)) ** 2
    assert config.llm.write_captions
    assert config.llm.caption_frames * picture + 1024 + config.llm.max_tokens <= config.llm.max_model_len
    beside = ["llm.gpu_memory_utilization=0.6", "actors.llm.num_gpus=0.6", "actors.ground.num_gpus=0.4"]
    assert refusal(shipped(path, *beside), CARDS[40]) is None
    assert "Qwen2.5-VL-7B-Instruct needs 15.4 GiB of weights" in refusal(shipped(path, *beside), CARDS[24])


def test_the_published_number_of_questions():
    """One event a video and 1.47 questions of it, the tasks as in training (docs/recipe.md)."""
    config = shipped(CONFIGS / "annotate_paper.yaml")
    published = {"AVTR": 2663, "AVSR": 2666, "AVSTR": 1204}
    assert config.filter.events_per_video == "first"
    assert config.questions.per_event == {
        task: round(1.47 * count / sum(published.values()), 2) for task, count in published.items()
    }


# -- what is told


def test_a_share_below_the_weights_is_refused_with_the_numbers():
    """Half a 24 GB card each was once shipped: 7B in 16 bits is more than that."""
    config = shipped(
        ONE_GPU, "llm.gpu_memory_utilization=0.45", "actors.llm.num_gpus=0.45", "actors.ground.num_gpus=0.5"
    )
    told = refusal(config, CARDS[24])
    weights, cache = 7.616e9 * 2 / GIB, 2048 * 131_072 / GIB
    total = weights + cache + cards.SERVER_GIB
    assert f"{weights:.1f}" == "14.2"
    assert (
        f"captions: Qwen2.5-7B-Instruct needs 14.2 GiB of weights + {cache:.1f} GiB for the cache of 2048 tokens"
        in told
    )
    assert f"= {total:.1f} GiB, but its share of the 22.5 GiB card" in told
    assert f"(llm.gpu_memory_utilization = 0.45) is {0.45 * 23_034 / 1024:.1f} GiB" in told
    assert told.endswith("set llm.gpu_memory_utilization=0.75 and actors.llm.num_gpus=0.75")
    assert 0.7 * 22.494 < total <= 0.75 * 22.494


def test_two_grounding_actors_on_a_card_have_half_of_it_each():
    config = shipped(CONFIGS / "annotate_cluster.yaml", "grounding.batch_frames=16")
    halved = shipped(CONFIGS / "annotate_cluster.yaml", "grounding.batch_frames=16", "actors.ground.num_gpus=0.5")
    need = grounding_need(config.grounding)
    weights = (232.3e6 + 224.4e6) * 2
    batch = 16 * cards.DETECTOR_FRAME_GIB * GIB
    objects = (cards.SEGMENTER_GIB + cards.OBJECTS * cards.OBJECT_GIB) * GIB
    assert need.total == pytest.approx(weights + batch + objects + cards.CONTEXT_GIB * GIB)
    card = round(1.5 * need.total)
    assert refusal(config, card) is None
    assert (
        f"(actors.ground.num_gpus = 0.5) is {0.75 * need.total / GIB:.1f} GiB; set grounding.batch_frames="
        in refusal(halved, card)
    )
    assert refusal(halved, round(2 * need.total) + 2) is None


@pytest.mark.parametrize(
    ("dtype", "batch", "taken_gib", "context_gib"),
    [
        ("auto", 8, 7.133, 0.706),
        ("bfloat16", 16, 13.223, 0.694),
        ("float32", 8, 14.1, 0.712),
        ("float32", 16, 26.312, 0.712),
    ],
)
def test_grounding_needs_what_was_measured_and_little_more(dtype, batch, taken_gib, context_gib):
    """On an H200, with frames of 750 x 1333; the rest is for the largest frames and for more objects."""
    need = grounding_need(GroundingConfig(dtype=dtype, batch_frames=batch))
    assert 1.05 < need.total / GIB / (taken_gib + context_gib) < 1.2


def test_a_server_takes_no_more_of_the_card_than_it_asks_for():
    told = refusal(shipped(ONE_GPU, "actors.llm.num_gpus=0.5"), CARDS[80])
    assert told == (
        "captions: the server takes llm.gpu_memory_utilization = 0.9 of a card of which its actor asks for "
        "actors.llm.num_gpus = 0.5; set actors.llm.num_gpus=0.9 or more"
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["llm.gpu_memory_utilization=0.3"],
        ["llm.gpu_memory_utilization=0.3", "actors.llm.num_gpus=0.3"],
        ["actors.llm.num_gpus=0.5"],
        ["llm.max_model_len=65536"],
        ["grounding.batch_frames=128"],
        ["grounding.batch_frames=64", "grounding.dtype=float32", "actors.ground.num_gpus=0.1"],
        ["grounding.batch_frames=1", "grounding.dtype=float32", "actors.ground.num_gpus=0.1"],
    ],
)
def test_what_the_message_says_to_set_fits(overrides):
    told = refusal(shipped(ONE_GPU, *overrides), CARDS[24])
    fixes = re.findall(r"[a-z_]+\.[a-z_.]+=[\w.]+", told[told.rindex("; ") :])
    assert fixes and refusal(shipped(ONE_GPU, *overrides, *fixes), CARDS[24]) is None, told


def test_no_setting_helps_a_model_that_is_larger_than_the_card():
    told = refusal(shipped(ONE_GPU, "llm.model_dir=models/Some-70B"), CARDS[80])
    assert "; take a smaller or a quantised model, or a card of 162 GiB or more" in told  # (143.4 + 0.25 + 1.5) / 0.9
    told = refusal(shipped(ONE_GPU, "llm.backend=openai"), 2 * GIB)
    assert told.startswith("vision: grounding-dino-base and sam2.1-hiera-large need 0.9 GiB of weights + ")
    assert "; take smaller models, or a card of " in told


def test_a_model_of_unknown_size_is_let_pass_and_said(caplog):
    check_cards(shipped(ONE_GPU, "llm.model_dir=models/mine", "grounding.detector=my/detector"), CARDS[24])
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "llm.model_dir: nothing tells how large models/mine is; whether it fits the card isn't known",
        "grounding: nothing tells how large my/detector and facebook/sam2.1-hiera-large are; whether they fit the card "
        "isn't known",
    ]


# -- who asks


def test_the_smallest_visible_card_counts(a_card, tmp_path, monkeypatch):
    a_card(24_564, 23_034)
    assert card_bytes() == 23_034 * MIB
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    card_bytes()
    assert (tmp_path / "asked").read_text().splitlines()[-1].startswith("-i 1,3 --query-gpu=memory.total")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert card_bytes() is None


def test_driver_and_actors_refuse_before_a_model_is_loaded(a_card, tmp_path, monkeypatch):
    grounding = GroundingConfig(
        detector=save_detector(tmp_path / "detector"), segmenter=save_segmenter(tmp_path / "segmenter"), batch_frames=64
    )
    llm = LLMConfig(backend="local", model_dir=write_model(tmp_path / "Some", {"a": torch.zeros(10)}, {}))
    actors = {"llm": {"num_gpus": 1}, "ground": {"num_gpus": 1}}
    place = {"input": {"annotations": "a", "videos": "v"}, "output": "o", "llm": llm, "grounding": grounding}
    config = AnnotateConfig.model_validate(place | {"actors": actors})
    monkeypatch.setattr(local_llm, "runs_on_cpu", lambda: False)
    a_card(4096)
    with pytest.raises(ConfigError, match=r"^captions: Some needs 0\.0 GiB of weights .* is 1\.2 GiB; set llm\."):
        run._check_models(config)
    with pytest.raises(ConfigError, match=r"^captions: Some needs"):
        LocalLLM(llm).start()
    with pytest.raises(ConfigError, match=r"^vision: detector and segmenter need .* 64 frames at once .* 4\.0 GiB"):
        build_ground(grounding)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run._check_models(config)
    assert build_ground(grounding).stage == "ground"
