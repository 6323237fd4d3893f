"""The committed tiny checkpoints load as the real ones do and are as good as their cards say; their training code."""

import json

import numpy as np
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, Sam2VideoModel, Sam2VideoProcessor

from ravst_ray.toyworld.checkpoints import DETECTOR, SEGMENTER
from ravst_ray.toyworld.scene import random_scene, render
from ravst_ray.toyworld.training import detector, segmenter, train_detector, train_segmenter
from ravst_ray.toyworld.training.mask_clips import make_clip
from ravst_ray.toyworld.training.samples import FramePool, make_sample, mirrored, shrink
from ravst_ray.toyworld.training.trainer import Trainer, export


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def found():
    """The tiny Grounding DINO with its processor."""
    model = AutoModelForZeroShotObjectDetection.from_pretrained(DETECTOR, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(DETECTOR)


@pytest.fixture(scope="module")
def followed():
    """The tiny SAM 2 with its processor."""
    model = Sam2VideoModel.from_pretrained(SEGMENTER, dtype=torch.float32).eval()
    return model, Sam2VideoProcessor.from_pretrained(SEGMENTER)


def test_detector_finds_things_in_unseen_frames(found):
    with torch.no_grad():
        numbers = train_detector.evaluate(*found, frames=20, seed=4)
    assert numbers["recall"] >= 0.9 and numbers["precision"] >= 0.9 and numbers["mean_iou"] >= 0.85


def test_segmenter_cuts_out_and_follows_in_unseen_scenes(followed):
    numbers = train_segmenter.evaluate(*followed, scenes=5, frames=3, seed=4)
    assert numbers["prompted_mask"] >= 0.9 and numbers["prompted_box"] >= 0.88 and numbers["followed_mask"] >= 0.85


def test_detector_knows_nothing_else(found):
    model, processor = found
    image = render(random_scene(np.random.default_rng(0)), 1.0).image
    inputs = processor(images=image, text=[["violin", "tall man"]], return_tensors="pt")
    with torch.no_grad():
        scores = model(**inputs).logits.sigmoid()
    assert model.config.max_text_len == 64 and scores.max() < 0.4


@pytest.mark.parametrize("folder", [DETECTOR, SEGMENTER])
def test_checkpoints_are_half_precision_and_have_a_card(folder):
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        kinds = {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118
    card = (folder / "README.md").read_text()
    assert kinds == {"F16"}
    assert all(word in card for word in ("Data", "steps", "min on one", "unseen"))


def test_checkpoints_are_small():
    files = [file for folder in (DETECTOR, SEGMENTER) for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) < 15e6


def test_training_frames_are_what_the_processors_make(found, followed):
    image = render(random_scene(np.random.default_rng(1)), 1.0).image
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = (torch.from_numpy(shrink(image)).float() / 255 - mean) / std
    for _, processor in (found, followed):
        pixels = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(pixels, expected, atol=0.02, rtol=0)


def test_unrolling_does_what_the_model_does(followed):
    """Our differentiable step gives the logits of transformers' own inference session, prompt and memory alike."""
    model, processor = followed
    clip = make_clip(np.random.default_rng(3), frames=4)
    objects = np.flatnonzero(clip.seen[0]).tolist()
    video = clip.images.transpose(0, 2, 3, 1)
    session = processor.init_video_session(video=video, inference_device="cpu", dtype=torch.float32)
    prompts = clip.boxes[0, objects]
    processor.add_inputs_to_inference_session(
        session, frame_idx=0, obj_ids=[*objects], input_boxes=[prompts.astype(float).tolist()]
    )
    theirs = [out.pred_masks[:, 0] for out in model.propagate_in_video_iterator(session, start_frame_idx=0)]
    memory = segmenter.Memory(frames=4)
    with torch.no_grad():
        for t in range(4):
            pixels = session.get_frame(t)[None]
            levels, position = segmenter.encode(model, pixels, torch.zeros(len(objects), dtype=torch.long))
            boxes = torch.from_numpy(prompts) if t == 0 else None
            ours = segmenter.step(model, levels, position, memory, t, boxes, fresh=t == 0)
            logits = torch.where(ours.score[:, None, None] > 0, ours.logits, torch.tensor(-1024.0))
            torch.testing.assert_close(logits, theirs[t], atol=0.05, rtol=0.01)


def test_phrase_tokens_mark_the_words_of_each_phrase():
    ids = torch.tensor([101, 1040, 1044, 1012, 1047, 1041, 1045, 1012, 102, 0])
    assert detector.phrase_tokens(ids, 2).int().tolist() == [
        [0, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 0, 0, 0],
    ]


def test_focal_loss_is_torchvisions():
    torch.manual_seed(0)
    logits, target = torch.randn(50), (torch.rand(50) > 0.5).float()
    torch.testing.assert_close(detector._focal(logits, target), sigmoid_focal_loss(logits, target, alpha=0.4))


def test_a_fresh_detector_starts_at_its_prior():
    torch.manual_seed(0)
    model = detector.build_model()
    seen = model.model.decoder.layer_norm(torch.randn(500, 64))
    read = model.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after(torch.randn(500, 64))
    logits = seen @ read.T
    assert logits.mean().item() == pytest.approx(-4.0, abs=0.1)
    assert sum(p.numel() for p in model.parameters()) == 1_312_040


def test_mirroring_swaps_left_and_right():
    sample = make_sample(random_scene(np.random.default_rng(2)), 1.0, np.random.default_rng(0))
    twice = mirrored(mirrored(sample))
    assert np.array_equal(twice.image, sample.image) and np.allclose(twice.boxes_N, sample.boxes_N)
    assert np.allclose(mirrored(sample).boxes_N[:, 0], 1 - sample.boxes_N[:, 2])


def test_training_goes_on_where_it_stopped(tmp_path):
    """Two steps, a save, two more steps: the same weights, averages and step count as the run that was resumed."""

    def run(trainer, steps):
        for _ in range(steps):
            trainer.update((trainer.model(torch.ones(1, 3)) ** 2).sum())

    def fresh():
        torch.manual_seed(1)
        return torch.nn.Linear(3, 2)

    first = Trainer(fresh(), tmp_path, minutes=1e9, rate=0.1, decay=0.9)
    run(first, 2)
    first.save()
    run(first, 2)
    second = Trainer(fresh(), tmp_path, minutes=1e9, rate=0.1, decay=0.9, resume=True)
    run(second, 2)
    assert second.step == first.step == 4
    for key, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[key], value)
        torch.testing.assert_close(second.average[key], first.average[key])
    assert not torch.equal(first.average["weight"], first.model.weight)


def test_training_steps_bring_the_loss_down_and_exports_load(tmp_path):
    torch.manual_seed(0)
    processor, model = detector.build_processor(tmp_path / "words"), detector.build_model()
    trainer = Trainer(model, tmp_path, minutes=1e9, rate=1e-3, decay=0.998)
    samples = FramePool(seed=1, first=4).batch(4)
    losses = [
        trainer.update(train_detector.batch_loss(model, processor, samples, np.random.default_rng(0)))
        for _ in range(12)
    ]
    assert losses[-1] < 0.8 * losses[0]
    export(model, processor, tmp_path / "out", "a card")
    again = AutoModelForZeroShotObjectDetection.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(
            again.state_dict()[key], value.half().float() if value.is_floating_point() else value
        )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "grounding-dino"


def test_a_nan_loss_ends_the_training(tmp_path):
    model = torch.nn.Linear(1, 1)
    trainer = Trainer(model, tmp_path, minutes=1, rate=0.1, decay=0.9)
    with pytest.raises(FloatingPointError, match="step 0"):
        trainer.update(model(torch.full((1, 1), float("nan"))).sum())
