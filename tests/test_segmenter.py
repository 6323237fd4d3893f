"""SAM 2 behind the segmenter protocol, on a tiny model with random weights, against transformers' own session."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ravst_ray.errors import ConfigError
from ravst_ray.grounding.sam2 import Sam2Memory, Sam2Video
from tests.tiny_models import save_segmenter

BOXES = [(10.0, 8.0, 40.0, 30.0), (0.0, 0.0, 25.0, 20.0)]


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory) -> Sam2Video:
    torch.set_num_threads(1)
    return Sam2Video(save_segmenter(tmp_path_factory.mktemp("segmenter")), device="cpu")


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 80, 3), dtype=np.uint8) for _ in range(40)]


def start(segmenter: Sam2Video, frame: np.ndarray) -> Sam2Memory:
    memory = segmenter.memory()
    assert memory.advance(frame) == {}
    for object_id, candidate in enumerate(memory.segment(BOXES)):
        memory.adopt(object_id, candidate)
    return memory


def test_masks_are_those_of_a_session_of_transformers(segmenter: Sam2Video, frames):
    """One session with both objects, in which nothing is ever pruned, over more frames than the memory reaches back."""
    processor, model = segmenter.processor, segmenter.model
    session = processor.init_video_session(inference_device="cpu", dtype=torch.float32)
    processor.add_inputs_to_inference_session(
        session, 0, [0, 1], input_boxes=[[list(box) for box in BOXES]], original_size=(48, 80)
    )
    memory = segmenter.memory()
    for number, frame in enumerate(frames[:24]):
        pixels = processor(images=frame, return_tensors="pt").pixel_values[0]
        out = model(session, frame=pixels, frame_idx=number)
        expected = processor.post_process_masks([out.pred_masks], original_sizes=[[48, 80]])[0][:, 0].numpy()
        seen = memory.advance(frame)
        if number == 0:
            for object_id, candidate in enumerate(memory.segment(BOXES)):
                memory.adopt(object_id, candidate)
                seen[object_id] = candidate.seen
        for object_id in (0, 1):
            assert seen[object_id].mask.shape == (48, 80) and seen[object_id].mask.dtype == bool
            assert (seen[object_id].mask == expected[object_id]).mean() > 0.999
            assert 0.1 < expected[object_id].mean() < 0.95
            assert 0 <= seen[object_id].score <= out.object_score_logits[object_id].sigmoid()


def test_an_object_seen_afresh_is_remembered_by_it(segmenter: Sam2Video, frames):
    """A refreshed object goes on from the new box: its next masks differ from those of one that wasn't refreshed."""
    old, new = start(segmenter, frames[0]), start(segmenter, frames[0])
    for frame in frames[1:4]:
        old.advance(frame)
        new.advance(frame)
    new.adopt(0, new.segment([(50.0, 20.0, 78.0, 46.0)])[0])
    outputs = new._sessions[0].output_dict_per_obj[0]
    assert sorted(outputs["cond_frame_outputs"]) == [0, 3] and sorted(outputs["non_cond_frame_outputs"]) == [1, 2]
    a, b = old.advance(frames[4]), new.advance(frames[4])
    assert (a[0].mask != b[0].mask).any()
    assert (a[1].mask == b[1].mask).all()


def test_candidates_know_nothing_of_the_past(segmenter: Sam2Video, frames):
    memory = start(segmenter, frames[0])
    memory.advance(frames[1])
    fresh = segmenter.memory()
    fresh.advance(frames[1])
    for a, b in zip(memory.segment(BOXES), fresh.segment(BOXES), strict=True):
        assert (a.seen.mask == b.seen.mask).all() and a.seen.score == pytest.approx(b.seen.score)
    assert memory.segment([]) == []


def test_what_is_remembered_does_not_grow(segmenter: Sam2Video, frames):
    memory = start(segmenter, frames[0])
    sizes = []
    for number, frame in enumerate(frames[1:], start=1):
        memory.advance(frame)
        if number % 3 == 0:
            memory.adopt(0, memory.segment(BOXES[:1])[0])
        sizes.append(sum(_numbers(session.output_dict_per_obj[0]) for session in memory._sessions.values()))
        assert all(session.processed_frames == {} for session in memory._sessions.values())
    assert sizes[-1] == sizes[20] == sizes[23]


def _numbers(value) -> int:
    if isinstance(value, dict):
        return sum(_numbers(one) for one in value.values())
    return value.numel() if isinstance(value, torch.Tensor) else 0


def test_forgotten_objects_are_not_followed(segmenter: Sam2Video, frames):
    memory = start(segmenter, frames[0])
    memory.forget(0)
    assert set(memory.advance(frames[1])) == {1}


def test_half_precision_checkpoints_run_in_the_asked_precision(tmp_path, frames):
    folder = save_segmenter(tmp_path / "half", dtype=torch.float16)
    for dtype, expected in (("auto", torch.float32), ("bfloat16", torch.bfloat16)):
        segmenter = Sam2Video(folder, device="cpu", dtype=dtype)
        assert {weight.dtype for weight in segmenter.model.parameters()} == {expected}
        memory = start(segmenter, frames[0])
        assert set(memory.advance(frames[1])) == {0, 1}


def test_missing_directories_are_named():
    with pytest.raises(ConfigError, match=r"grounding\.segmenter: no model directory \./nowhere"):
        Sam2Video("./nowhere", device="cpu")


def test_a_model_of_another_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match=r"is a bert model, no SAM 2"):
        Sam2Video(str(tmp_path), device="cpu")
