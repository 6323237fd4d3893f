"""The benchmark of a step on one card, as far as a CPU can tell: its models, its arithmetic, and that it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoProcessor

from ravst_ray.config.train import LearnerConfig, LoraConfig
from ravst_ray.models.shape import KNOWN
from ravst_ray.training.forward import VideoForward
from tests.benchmarks.gpu_training import CAP, CLIP, FAMILY, LORA, TARGETS, Case, Work, cases, rows_of
from tests.benchmarks.large_models import STATE_BYTES, TOY, build, forward_flops, states_gib, step_flops, weights_of

WORK = Work(group=3, completion=20, height=56, width=84)
ABSENT = ("pydantic", "ray", "vllm", "trl", "datasets", "av", "boto3", "mistral_common")
BARE = f"""
import importlib.machinery, runpy, sys
found = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, *more: None if name.partition(".")[0] in {ABSENT} else found(name, *more)
)
from tests.benchmarks import gpu_training
every = gpu_training.cases
gpu_training.cases = lambda *given: [*every(*given)[2:6:3], every(*given)[-1]]
gpu_training.main()
"""


@pytest.mark.parametrize("size", ["3B", "7B"])
def test_models_have_the_published_sizes(size):
    weights, known = weights_of(size), KNOWN[f"qwen2.5-vl-{size.lower()}"]
    assert weights["tower"] + weights["merger"] == known.tower.parameters
    assert sum(weights.values()) == known.parameters
    assert states_gib(size) == (STATE_BYTES * known.language + 2 * known.tower.parameters) / 2**30


@pytest.mark.parametrize("shared", [True, False])
def test_operations_are_those_that_torch_counts(shared):
    """Torch counts the products of matrices; on a CPU it knows nothing of attention."""
    model = build("tiny", torch.float32, torch.device("cpu")).eval()
    forward = VideoForward(AutoProcessor.from_pretrained(TOY), FAMILY, frozen_vision=True, share_prompts=shared)
    rows = rows_of(forward, 4, WORK, "video")
    with torch.no_grad():
        forward.score(model, rows)  # the tower's features are kept from here on
        with FlopCounterMode(display=False) as counter:
            forward.score(model, rows)
    expected = forward_flops("tiny", rows, shared)
    assert counter.get_total_flops() == pytest.approx(expected["weights"], rel=0.02)
    prompt, ends = len(rows[0].prompt_ids), (1 if shared else 3)
    pairs = ends * prompt * prompt / 2 + 3 * (20 * prompt + 20 * 20 / 2)  # causal: half of a square
    assert expected["attention"] == 2 * 2 * pairs * 64 * 2  # scores and values, width 64, two layers
    full = step_flops("tiny", rows, shared=shared, lora=False, patches=0)
    assert full == 3 * (expected["weights"] + expected["attention"])


def test_it_does_what_the_learner_does_by_default():
    config, lora = LearnerConfig(), LoraConfig()
    assert (config.loss, config.importance_mode, config.correct_importance) == ("dapo", "token_truncate", True)
    assert (config.clip_low, config.upper_clip, config.importance_cap) == (CLIP, CLIP, CAP)
    assert (LORA["r"], LORA["lora_alpha"], TARGETS.split("|")) == (lora.rank, lora.alpha, list(lora.targets))


def test_every_case_comes_once_and_the_most_telling_first():
    made = cases(["7B", "3B"], (16, 64))
    assert len(set(made)) == len(made) == 2 * 2 * 2 * 2 * 2
    assert made[0] == Case("7B", True, 64)
    assert all(case.cached or case.shared for case in made[:16])


def test_it_runs_where_little_is_installed(tmp_path):
    command = [sys.executable, "-c", BARE, "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gpu_training.json").read_text())
    assert [case["name"] for case in result["cases"]] == [
        "tiny, LoRA, 4 frames, new video",
        "tiny, full, 2 frames",
        "tiny, full, 2 frames, new video, a prompt for each",
    ]
    for case in result["cases"]:
        assert case["completion_tokens_per_s"] == pytest.approx(2 * 12 / case["step_s"])
        assert 0 < case["gradient_norm"] < 100
    assert 0 < result["precision"]["tiny"]["mean"] < 0.01
    table = (tmp_path / "gpu_training.md").read_text()
    assert table.count("\n| tiny, ") == 3 and "Log-probs of tiny" in table
