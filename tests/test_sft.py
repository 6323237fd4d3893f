"""Supervised fine-tuning against plain cross-entropy, and what it leaves on disk."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForImageTextToText, AutoProcessor

from ravst_ray.config.sft import SftConfig
from ravst_ray.config.train import LoraConfig
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.errors import AbortError, ConfigError, StepError
from ravst_ray.records import VideoView
from ravst_ray.training.forward import VideoForward
from ravst_ray.training.sft import build_sft, example
from ravst_ray.training.sft_examples import ClipWindow
from tests.tiny_policies import FAMILY, load_tiny, noise_clip, tiny_policy

PROMPTS = ["When?", "What sounds, and where is it?", "Where?", "What is silent here?"]
ANSWERS = [
    "<answer>\n<object>red drum</object>\n</answer>",
    "<answer>\n<object>blue bell</object>\n<when>[1.0, 2.5]</when>\n</answer>",
    "<answer>\n</answer>",
    "<answer>\n<object>green ball</object>\n</answer>",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_policy(tmp_path_factory.mktemp("policy"), seed=3)


def examples(processor, video=True):
    """Clips of different sizes; the last prompt has none."""
    forward = VideoForward(processor, FAMILY)
    clips = [noise_clip(f"c{n}", frames, n) if video else None for n, frames in enumerate((4, 2, 4))]
    return [
        example(forward, *both, clip)
        for both, clip in zip(zip(PROMPTS, ANSWERS, strict=True), [*clips, None], strict=True)
    ]


def config(**more):
    return SftConfig(**{"rate": 1e-2, "batch": 4, "micro_batch": 2, "freeze_vision": False, "max_steps": 1, **more})


def build(folder, tmp_path, settings, **more):
    made = examples(AutoProcessor.from_pretrained(folder))
    return build_sft(folder, settings, made, tmp_path / "out", **more)


def plain_cross_entropy(model, processor, rows):
    """Row by row, without padding, with transformers' own loss function over all positions of the answers."""
    forward = VideoForward(processor, FAMILY)
    losses = []
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        positions = torch.from_numpy(np.array(forward.positions(row, model.config)))[:, None]
        video = {}
        if row.clip is not None:
            inputs = forward.side.encode(processor, row.clip)
            video = {"pixel_values_videos": inputs["pixels"], "video_grid_thw": inputs["grid"][None]}
        logits = model(input_ids=ids, position_ids=positions, **video).logits[0]
        begin = len(row.prompt_ids)
        losses.append(torch.nn.functional.cross_entropy(logits[begin - 1 : -1], ids[0, begin:], reduction="none"))
    return torch.cat(losses).mean()


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_a_step_is_plain_cross_entropy_over_all_answer_tokens(folder, tmp_path, micro_batch):
    """However the batch is cut, and though answers differ in length: loss and gradient norm are the same."""
    steps = []
    learner = build(
        folder, tmp_path, config(micro_batch=micro_batch), on_step=lambda step, numbers: steps.append((step, numbers))
    )
    learner.train()
    model, processor = load_tiny(folder)
    loss = plain_cross_entropy(model, processor, examples(processor))
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
    assert [step for step, _ in steps] == [1]
    assert steps[0][1]["loss"] == pytest.approx(loss.item(), abs=1e-4)
    assert steps[0][1]["grad_norm"] == pytest.approx(norm, rel=1e-3)


def test_the_answer_ends_with_the_end_token(folder):
    processor = AutoProcessor.from_pretrained(folder)
    row = example(VideoForward(processor, FAMILY), PROMPTS[0], ANSWERS[1], noise_clip())
    assert processor.tokenizer.decode(row.completion_ids) == ANSWERS[1] + "<|im_end|>"
    assert processor.tokenizer.decode(row.prompt_ids).endswith("<|im_start|>assistant\n")


def test_training_lowers_the_loss_and_leaves_a_model_that_loads(folder, tmp_path):
    losses = []
    learner = build(
        folder,
        tmp_path,
        config(max_steps=15, warmup_steps=2),
        on_step=lambda _, numbers: losses.append(numbers["loss"]),
    )
    learner.train()
    assert len(losses) == 15 and losses[-1] < 0.6 * losses[0]
    learner.save_model(tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    trained = dict(learner.model.named_parameters())
    assert all(torch.equal(value, trained[name]) for name, value in model.named_parameters())
    with torch.no_grad():
        again = plain_cross_entropy(model.eval(), processor, examples(processor))
    assert float(again) < losses[-2]


def test_a_resumed_run_sees_the_same_examples_and_ends_the_same(folder, tmp_path):
    whole = build(folder, tmp_path / "a", config(max_steps=4, micro_batch=2, batch=2))
    whole.train()
    first = build(folder, tmp_path / "b", config(max_steps=4, micro_batch=2, batch=2), save_every=2)
    first.train()
    second = build(folder, tmp_path / "b", config(max_steps=4, micro_batch=2, batch=2), save_every=2)
    second.train(resume_from_checkpoint=str(tmp_path / "b" / "out" / "checkpoint-2"))
    assert second.state.global_step == 4
    for (name, value), other in zip(whole.model.named_parameters(), second.model.parameters(), strict=True):
        assert torch.allclose(value, other, atol=1e-6), name


def test_every_pass_shows_every_example_once_in_an_order_of_its_own(folder, tmp_path):
    learner = build(folder, tmp_path, config(batch=2, epochs=3.0, max_steps=None))
    assert learner.args.max_steps == 6
    seen = [id(row) for step in range(6) for rows in learner.micro_batches(step) for row in rows]
    passes = [seen[start : start + 4] for start in range(0, 12, 4)]
    assert all(len(set(one)) == 4 for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_an_example_that_cannot_be_shown_gives_way_to_its_slots_next(folder, tmp_path):
    """Two steps of two: whatever stands in comes from the same slot of a later step, and is counted."""
    made = [*examples(AutoProcessor.from_pretrained(folder)), None]
    told = []
    learner = build_sft(
        folder, config(batch=2, max_steps=40), made, tmp_path, expect=lambda places: told.append(places), ahead=2
    )
    order = [place for step in range(60) for place in learner._own(step)]
    for step in range(20):
        rows = [row for part in learner.micro_batches(step) for row in part]
        for slot, row in enumerate(rows):
            wanted = next(order[at] for at in range(2 * step + slot, len(order), 2) if order[at] != 4)
            assert row is made[wanted]
    assert 4 in order[:40] and learner._replaced >= order[:40].count(4)
    assert told[3] == order[6:10]  # its own step and two examples after it


def test_videos_are_decoded_a_window_ahead_and_no_more():
    """Each once; as many as may be on their way; in the bytes that there are; what isn't needed again goes."""
    tasks = [VideoTask(f"v{n}", "", (), 4.0) for n in range(9)]
    view = VideoView(4, 1.0, 1024, 1024, 4.0, 1024, 1024)  # 12 MiB
    begun = []

    def start(task):
        begun.append(task.video_id)
        return task.video_id, StepError("no_frames", "broken") if task.video_id == "v1" else view

    window = ClipWindow(start, most=6, gib=36 / 1024, get=lambda one: one)
    window.expect(tasks[:8])
    assert begun == ["v0", "v1", "v2", "v3"]  # as long as it isn't known how large one is
    assert window.shown(tasks[0]) == ("v0", view)
    assert window.shown(tasks[1]) is None and window.bad == {"v1"}
    window.expect(tasks[2:])
    assert begun == ["v0", "v1", "v2", "v3", "v4"]  # three of 12 MiB
    assert [window.shown(task)[0] for task in tasks[2:4]] == ["v2", "v3"]
    window.expect(tasks[1:2])
    assert len(begun) == 5 and window.shown(tasks[1]) is None  # a bad one isn't tried again


def test_lora_moves_the_adapter_alone_and_a_frozen_tower_stays(folder, tmp_path):
    model, _ = load_tiny(folder)
    before = dict(model.named_parameters())
    learner = build(folder, tmp_path, config(lora=LoraConfig(rank=4), freeze_vision=True, max_steps=2))
    learner.train()
    inner = learner.model.get_base_model()
    moved = [name for name, p in learner.model.named_parameters() if p.requires_grad]
    assert moved and all("lora" in name for name in moved)
    for name, value in inner.named_parameters():
        if "lora" not in name:
            assert torch.equal(value, before[name.replace(".base_layer", "")]), name


def test_a_loss_that_is_no_number_stops_before_anything_moves(folder, tmp_path):
    learner = build(folder, tmp_path, config())
    weight = next(learner.model.model.language_model.norm.parameters())
    weight.data[0] = math.nan
    before = {name: value.clone() for name, value in learner.model.named_parameters()}
    with pytest.raises(AbortError, match="step 1"):
        learner.train()
    for name, value in learner.model.named_parameters():
        assert torch.equal(value.nan_to_num(7.0), before[name].nan_to_num(7.0)), name


def test_batches_that_cannot_be_shared_are_refused(folder, tmp_path):
    with pytest.raises(ValidationError, match="micro_batch"):
        SftConfig(batch=6, micro_batch=4)
    with pytest.raises(ConfigError, match="3 workers"):
        build(folder, tmp_path, config(), workers=3)
