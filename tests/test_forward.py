"""The learner's forward against plain forwards without padding, and its positions against vLLM's own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ravst_ray.policy.families.chat import vl_positions
from ravst_ray.training.forward import Row, VideoForward
from tests.tiny_policies import FAMILY, load_tiny, noise_clip, tiny_policy


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def policy(request, tmp_path_factory):
    return load_tiny(tiny_policy(tmp_path_factory.mktemp("policy"), seed=5, tied=request.param))


def rows_of(forward):
    shown, longer = noise_clip("a", 4, 1), noise_clip("b", 6, 2, step_s=0.7)
    return [
        Row(forward.prompt_ids("When is the moment red ball makes sound?", shown), [20, 21, 22, 23, 24], shown),
        Row(forward.prompt_ids("When?", longer), [30, 31], longer),
        Row(forward.prompt_ids("Without a video.", None), [40, 41, 42], None),
        Row(forward.prompt_ids("When?", shown), [50, 51, 52, 53], shown),
        Row(forward.prompt_ids("When?", longer), [32, 33, 34], longer),
        Row(forward.prompt_ids("When?", longer), [30], longer),
        Row(forward.prompt_ids("Without a video.", None), [43], None),
    ]


def plain(model, processor, row, temperature, banned):
    """One row, unpadded, all logits."""
    inputs = {"input_ids": torch.tensor([[*row.prompt_ids, *row.completion_ids]])}
    length = inputs["input_ids"].shape[1]
    positions = np.broadcast_to(np.arange(length), (3, length))
    if row.clip is not None:
        metadata = FAMILY.metadata(len(row.clip.frames), row.clip.step_s)
        del metadata["do_sample_frames"]
        made = processor.video_processor(
            videos=[row.clip.frames], video_metadata=[metadata], return_tensors="pt", **FAMILY.processor_kwargs
        )
        inputs |= {"pixel_values_videos": made["pixel_values_videos"], "video_grid_thw": made["video_grid_thw"]}
        ids = inputs["input_ids"][0].tolist()
        grid = made["video_grid_thw"][0].tolist()
        tokens = model.config.vision_config.tokens_per_second
        positions = vl_positions(
            ids, model.config.video_token_id, grid, FAMILY.seconds_per_grid(row.clip.step_s), tokens
        )
    inputs["position_ids"] = torch.from_numpy(positions.copy())[:, None]
    logits = model(**inputs).logits[0]
    logits[:, banned] -= 100.0
    table = torch.log_softmax(logits / temperature, dim=-1)
    start = len(row.prompt_ids) - 1
    picked = table[start:-1]
    logps = [float(picked[i, token]) for i, token in enumerate(row.completion_ids)]
    return logps, [float(-(line.exp() * line).sum()) for line in picked]


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_each_row_alone(policy, temperature):
    model, processor = policy
    forward = VideoForward(processor, FAMILY, temperature=temperature)
    rows = rows_of(forward)
    scores = forward.score(model, rows, entropies=True)
    banned = FAMILY.banned_ids(processor.tokenizer)
    for place, row in enumerate(rows):
        logps, entropies = plain(model, processor, row, temperature, banned)
        length = len(row.completion_ids)
        assert scores.logps[place, :length].tolist() == pytest.approx(logps, abs=1e-5)
        assert scores.entropies[place, :length].tolist() == pytest.approx(entropies, abs=1e-4)
        assert scores.mask[place].tolist() == [True] * length + [False] * (5 - length)
        assert scores.logps[place, length:].abs().sum() == 0


def test_a_prompt_is_computed_once_for_all_its_completions(policy):
    model, processor = policy
    forward = VideoForward(processor, FAMILY)
    clip = noise_clip("a", 4, 1)
    prompt = forward.prompt_ids("When?", clip)
    rows = [Row(prompt, [20 + i] * length, clip) for i, length in enumerate((3, 1, 2))]
    shapes = []
    handle = model.model.language_model.register_forward_hook(lambda *it: shapes.append(it[-1][0].shape[:2]))
    shared = forward.score(model, rows).logps
    shared.exp().sum().backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert shapes == [(1, len(prompt) + 6)]
    model.zero_grad()
    for place, row in enumerate(rows):
        alone = forward.score(model, [row]).logps
        assert torch.allclose(shared[place, : len(row.completion_ids)], alone[0], atol=1e-5)
        alone.exp().sum().backward()
    handle.remove()
    for name, p in model.named_parameters():
        if p.grad is not None:
            assert torch.allclose(p.grad, wanted[name], atol=1e-5), name
    model.zero_grad()


@torch.no_grad()
def test_attention_without_masks_of_its_own_gets_every_row_by_itself(policy, monkeypatch):
    model, processor = policy
    forward = VideoForward(processor, FAMILY)
    rows = rows_of(forward)
    wanted = forward.score(model, rows).logps
    monkeypatch.setattr(model.config, "_attn_implementation", "eager")
    widths = []
    handle = model.model.language_model.register_forward_hook(lambda *it: widths.append(it[-1][0].shape[0]))
    assert torch.allclose(forward.score(model, rows).logps, wanted, atol=1e-5)
    handle.remove()
    assert widths == [len(rows)]


@torch.no_grad()
def test_a_frozen_towers_features_are_computed_once_and_change_nothing(policy):
    model, processor = policy
    free, frozen = VideoForward(processor, FAMILY), VideoForward(processor, FAMILY, frozen_vision=True)
    rows = rows_of(free)
    wanted = free.score(model, rows).logps
    calls = []
    handle = model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(2):
        assert torch.allclose(frozen.score(model, rows).logps, wanted, atol=2e-6)
    handle.remove()
    assert len(calls) == 1


def test_the_tower_learns_unless_it_is_frozen(policy):
    model, processor = policy
    for frozen in (False, True):
        model.zero_grad()
        forward = VideoForward(processor, FAMILY, frozen_vision=frozen)
        forward.score(model, rows_of(forward)).logps.sum().backward()
        weight = model.model.visual.patch_embed.proj.weight
        assert (weight.grad is None or weight.grad.abs().sum() == 0) == frozen
    model.zero_grad()


@pytest.fixture
def mesh():
    """One worker's gloo mesh: weights become sharded tensors, as with many."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_sharded_model_scores_as_a_whole_one(tmp_path, mesh, frozen):
    model, processor = load_tiny(tiny_policy(tmp_path, seed=5))
    model.model.visual.requires_grad_(not frozen)
    forward = VideoForward(processor, FAMILY, frozen_vision=frozen)
    rows = rows_of(forward)
    whole = forward.score(model, rows).logps
    whole.sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for module in list(model.modules()):
        if type(module).__name__ in ("Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    scores = VideoForward(processor, FAMILY, frozen_vision=frozen).score(model, rows).logps
    scores.sum().backward()
    assert torch.allclose(scores, whole, atol=2e-6)
    found = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-4), name


@torch.no_grad()
def test_banned_tokens_have_no_probability_unless_given_texts_are_learned(policy):
    model, processor = policy
    pad = processor.tokenizer.pad_token_id
    row = Row([1, 2, 3], [pad])
    assert VideoForward(processor, FAMILY).score(model, [row]).logps.item() < -90
    assert VideoForward(processor, FAMILY, banned=False).score(model, [row]).logps.item() > -12


def vllms_positions(ids, grid, seconds):
    """Of vLLM, and how far the text after them is ahead of its place; ``seconds`` as vLLM's processor hands them on."""
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration as Theirs

    vision = SimpleNamespace(spatial_merge_size=2, tokens_per_second=2)
    feature = SimpleNamespace(
        modality="video",
        mm_position=SimpleNamespace(offset=3),
        data={
            "video_grid_thw": SimpleNamespace(data=torch.tensor(grid)),
            "second_per_grid_ts": SimpleNamespace(data=seconds),
        },
    )
    model = SimpleNamespace(config=SimpleNamespace(vision_config=vision))
    model.iter_mm_grid_thw = lambda features: Theirs.iter_mm_grid_thw(model, features)
    return Theirs.get_mrope_input_positions(model, ids, [feature])


@pytest.mark.parametrize(
    ("grid", "seconds"), [((4, 8, 8), 2.0), ((64, 8, 8), 0.5), ((3, 4, 6), 1.0), ((64, 4, 4), 1.4)]
)
def test_positions_are_vllms_own(grid, seconds):
    count = grid[0] * grid[1] * grid[2] // 4
    ids = [1, 2, 3, *[9] * count, 4, 5]
    theirs, delta = vllms_positions(ids, grid, torch.tensor(seconds))
    ours = vl_positions(ids, 9, grid, seconds, 2.0)
    assert ours.tolist() == theirs.tolist()
    assert ours.max() + 1 == len(ids) + delta


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_positions_are_vllms_own_for_all_steps_and_precisions(dtype):
    from transformers.video_utils import VideoMetadata

    for step_s in [*(tenths / 10 for tenths in range(1, 51)), 1 / 3, 3 * 0.7, 12.5]:
        for frames in (2, 15, 64, 256):
            grid = (-(-frames // 2), 2, 2)
            metadata = FAMILY.metadata(frames, step_s)
            metadata.pop("do_sample_frames")
            # What transformers' processor makes of it, and then vLLM, which casts to the precision of its model.
            seconds = torch.tensor(2 / VideoMetadata(**metadata).sampled_fps).to(dtype)
            ids = [1, 2, 3, *[9] * grid[0], 4, 5]
            theirs, _ = vllms_positions(ids, grid, seconds)
            ours = vl_positions(ids, 9, grid, FAMILY.seconds_per_grid(step_s), 2)
            assert ours.tolist() == theirs.tolist(), (step_s, frames)
            wanted = 4 * step_s * (grid[0] - 1)  # half seconds, of which two frames are one patch
            assert abs(ours[0, 2 + grid[0]] - 3 - wanted) <= 1 + 0.004 * wanted
