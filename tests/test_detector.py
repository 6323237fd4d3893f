"""Grounding DINO behind the detector protocol, on a tiny model with random weights."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ravst_ray.errors import ConfigError, StepError
from ravst_ray.grounding.grounding_dino import (
    GroundingDino,
    _is_visible,
    _to_pixels,
    build_prompts,
    clean_phrase,
    name_boxes,
    suppress,
)
from ravst_ray.grounding.protocols import Detection
from ravst_ray.models.pretrained import resolve_dtype
from tests.tiny_models import save_detector

SPECIAL = (101, 102, 1012)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    torch.set_num_threads(1)
    return save_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def detector(folder: str) -> GroundingDino:
    return GroundingDino(folder, device="cpu", box_threshold=0.2, text_threshold=0.1, nms_iou=1.0, batch_frames=2)


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 80, 3), dtype=np.uint8) for _ in range(3)]


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("Red Drum", "red drum"),
        (" A  man (St. Nick?) ", "a man st nick"),
        ("two\nyoung_boys", "two young boys"),
        ("man's hat", "man's hat"),
        ("T-shirt", "t-shirt"),
        ("...", ""),
        ("café", "café"),
    ],
)
def test_names_are_cleaned(name: str, phrase: str):
    assert clean_phrase(name) == phrase


def test_prompt_is_what_the_tokenizer_makes_of_the_text(detector: GroundingDino):
    """And each span decodes to its phrase, also where a word falls into pieces ("drums")."""
    tokenizer = detector.processor.tokenizer
    (prompt,) = build_prompts(["Red drum", "two young boys", "st. drums"], tokenizer, 32)
    assert list(prompt.token_ids) == tokenizer("red drum. two young boys. st drums.")["input_ids"]
    words = [tokenizer.decode(prompt.token_ids[start:stop]) for start, stop in prompt.spans]
    assert words == ["red drum", "two young boys", "st drums"]
    assert not {prompt.token_ids[i] for span in prompt.spans for i in range(*span)} & set(SPECIAL)


def test_prompts_are_cut_at_the_limit(detector: GroundingDino):
    """Room for 8: [CLS] + 2 words + . + 2 words + . + [SEP]. Doubles are asked once, empty names never."""
    tokenizer = detector.processor.tokenizer
    names = ["red drum", "!", "blue bell", "Red  drum.", "man", "two young boys a man with a hat"]
    prompts = build_prompts(names, tokenizer, 8)
    assert [prompt.names for prompt in prompts] == [(0, 2), (4,), (5,)]
    assert all(len(prompt.token_ids) <= 8 for prompt in prompts)
    assert prompts[0].spans == ((1, 3), (4, 6)) and prompts[2].spans == ((1, 6),)
    assert build_prompts(["?", ""], tokenizer, 8) == []


def test_a_box_gets_the_phrase_with_the_highest_mean_and_its_best_token_as_score():
    spans = [(1, 3), (4, 6)]  # red drum . red bell .
    probs = np.array(
        [
            [0.9, 0.6, 0.7, 0.9, 0.8, 0.1, 0.9],  # "drum": its surest word loses to the other's "red"
            [0.9, 0.1, 0.1, 0.9, 0.2, 0.41, 0.9],  # "bell" alone: 0.2 doesn't count
            [0.9, 0.39, 0.39, 0.9, 0.0, 0.0, 0.9],  # below the box threshold
            [0.0, 0.35, 0.35, 0.0, 0.0, 0.45, 0.0],  # a higher mean, but no token above the box threshold
        ]
    )
    assert list(name_boxes(probs, spans, 0.4, 0.3)) == [(0, 0, 0.7), (1, 1, 0.41), (3, 1, 0.45)]


def test_no_token_counts_below_the_text_threshold():
    probs = np.array([[0.0, 0.6, 0.5, 0.0]])
    assert list(name_boxes(probs, [(1, 3)], 0.4, 0.55)) == [(0, 0, 0.6)]
    assert list(name_boxes(probs, [(1, 3)], 0.4, 0.7)) == []


def test_one_place_is_claimed_by_one_name():
    sure, other = Detection(0, (0.0, 0.0, 10.0, 10.0), 0.6), Detection(1, (0.0, 0.0, 10.0, 9.0), 0.9)
    beside = Detection(1, (5.0, 0.0, 15.0, 10.0), 0.5)
    assert suppress([sure, other, beside], 0.6) == [other, beside]
    assert suppress([], 0.6) == []


def test_boxes_are_cut_to_the_frame():
    box = _to_pixels(np.array([0.5, 0.1, 0.5, 0.4]), 80, 40)
    assert box == pytest.approx((20.0, 0.0, 60.0, 12.0))


def test_what_is_left_at_the_edge_is_a_pixel_wide_at_least():
    """Of a box that begins 0.02 px before the right edge, 159.98 to 160 px, boxes to 0.1 px would have no width."""
    assert not _is_visible(_to_pixels(np.array([1.0, 0.5, 0.00025, 0.5]), 160, 120))
    assert not _is_visible(_to_pixels(np.array([0.5, -0.25, 0.5, 0.5]), 160, 120))
    assert _is_visible(_to_pixels(np.array([0.5, 0.5, 1 / 160, 1 / 120]), 160, 120))


@pytest.mark.parametrize("name", ["red drum", "man"])
def test_boxes_and_scores_are_those_of_transformers(detector: GroundingDino, frames, name: str):
    """Its own post-processing, after the tokens that are no words have been taken out."""
    text = f"{name}."
    inputs = detector.processor(images=frames, text=[text] * len(frames), return_tensors="pt")
    with torch.no_grad():
        outputs = detector.model(**inputs)
    logits = outputs.logits.clone()
    no_word = torch.isin(inputs["input_ids"][0], torch.tensor(SPECIAL))
    logits[:, :, : len(no_word)][:, :, no_word] = -torch.inf
    expected_T = detector.processor.post_process_grounded_object_detection(
        SimpleNamespace(logits=logits, pred_boxes=outputs.pred_boxes, input_ids=inputs["input_ids"]),
        threshold=0.2,
        text_threshold=0.1,
        target_sizes=[(48, 80)] * len(frames),
    )
    for found, expected in zip(detector.detect(frames, [name]), expected_T, strict=True):
        order = expected["scores"].argsort(descending=True)
        limit = torch.tensor([80.0, 48.0, 80.0, 48.0])
        boxes = expected["boxes"][order].clamp(min=0).minimum(limit)
        assert len(found) == len(order) > 0
        assert np.allclose([one.score for one in found], expected["scores"][order], atol=1e-5)
        assert np.allclose([one.box_xyxy_px for one in found], boxes, atol=1e-2)


def test_a_long_list_gives_what_its_parts_give(folder: str, frames):
    """Names that need two prompts: the same as two calls, one list, then suppression over both."""
    names = ["red drum", "blue bell", "green ball", "two young boys", "man with a hat", "a man"]
    detector = GroundingDino(folder, device="cpu", box_threshold=0.2, text_threshold=0.1, nms_iou=0.5)
    prompts = build_prompts(names, detector.processor.tokenizer, 16)
    assert [prompt.names for prompt in prompts] == [(0, 1, 2, 3), (4, 5)]
    detector.model.config.max_text_len, full = 16, detector.model.config.max_text_len
    together = detector.detect(frames, names)
    detector.model.config.max_text_len = full
    detector.nms_iou = 1.0
    first, second = detector.detect(frames, names[:4]), detector.detect(frames, names[4:])
    for got, a, b in zip(together, first, second, strict=True):
        parts = [*a, *(Detection(one.phrase + 4, one.box_xyxy_px, one.score) for one in b)]
        expected = suppress(parts, 0.5)
        assert [one.phrase for one in got] == [one.phrase for one in expected]
        assert np.allclose([one.score for one in got], [one.score for one in expected], atol=1e-5)


def test_batches_make_no_difference(folder: str, detector: GroundingDino, frames):
    alone = GroundingDino(folder, device="cpu", box_threshold=0.2, text_threshold=0.1, nms_iou=1.0, batch_frames=1)
    for a, b in zip(detector.detect(frames, ["man"]), alone.detect(frames, ["man"]), strict=True):
        assert np.allclose([one.score for one in a], [one.score for one in b], atol=1e-5)
    assert detector.detect(frames, ["?"]) == [[], [], []] and detector.detect([], ["man"]) == []


def test_a_checkpoint_saved_in_half_precision_runs_in_the_asked_precision(tmp_path, frames):
    folder = save_detector(tmp_path / "half", dtype=torch.float16)
    for dtype, expected in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        detector = GroundingDino(folder, device="cpu", dtype=dtype, box_threshold=0.2, text_threshold=0.1)
        assert {weight.dtype for weight in detector.model.parameters()} == {expected}
        assert any(detector.detect(frames[:1], ["man"]))


def test_a_full_card_halves_the_batch_once_then_gives_up(folder: str, frames, monkeypatch):
    detector = GroundingDino(folder, device="cpu", box_threshold=0.2, text_threshold=0.1, batch_frames=2)
    whole = detector.detect(frames, ["man"])
    forward, room = detector.model.forward, 1

    def crowded(*args, **inputs):
        if len(inputs["pixel_values"]) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **inputs)

    monkeypatch.setattr(detector.model, "forward", crowded)
    found = detector.detect(frames, ["man"])
    assert detector.batch_frames == 1
    assert [len(one) for one in found] == [len(one) for one in whole]
    room = 0
    with pytest.raises(StepError, match=r"batch_frames") as caught:
        detector.detect(frames, ["man"])
    assert caught.value.reason == "out_of_memory" and caught.value.retryable


def test_a_model_of_another_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match=r"grounding\.detector: .* can't be loaded"):
        GroundingDino(str(tmp_path), device="cpu")


def test_numbers_that_overflow_end_the_run_with_a_way_out(folder: str, frames: list[np.ndarray]):
    """Such a model would find nothing anywhere, and say so of each video."""
    detector = GroundingDino(folder, device="cpu", box_threshold=0.2, text_threshold=0.1)
    with torch.no_grad():
        detector.model.model.encoder.layers[0].deformable_layer.fc1.weight.fill_(torch.inf)
    with pytest.raises(ConfigError, match=r"overflow in torch.float32; set grounding.dtype=float32 or bfloat16"):
        detector.detect(frames[:1], ["red drum"])


def test_auto_is_float16_on_a_gpu():
    assert resolve_dtype("auto", "cuda", on_gpu="float16") == torch.float16
    assert resolve_dtype("auto", "cuda") == torch.bfloat16
    assert resolve_dtype("auto", "cpu", on_gpu="float16") == torch.float32
