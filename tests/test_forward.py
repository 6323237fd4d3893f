"""The learner's forward against plain forwards without padding, and its positions against vLLM's own."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from ravst_ray.policy.families.chat import vl_positions
from ravst_ray.training.forward import Row, VideoForward
from tests.families import FAMILY_CASES, picked
from tests.tiny_policies import FAMILY


@pytest.fixture(scope="module", params=FAMILY_CASES, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def policy(case, tmp_path_factory):
    return case.load(case.save(tmp_path_factory.mktemp("policy"), seed=5))


@pytest.fixture
def forward_of(case, policy):
    """Makes a forward of the family: ``forward_of(frozen_vision=True)``."""
    return lambda **settings: VideoForward(policy[1], case.family, **settings)


def rows_of(case, forward):
    shown, longer = case.clip("a", 4, 1), case.clip("b", 7, 2, step_s=0.7)
    more = case.ways(longer)[1:]
    return [
        Row(forward.prompt_ids("When is the moment red ball makes sound?", shown), [20, 21, 22, 23, 24], shown),
        Row(forward.prompt_ids("When?", longer), [30, 31], longer),
        Row(forward.prompt_ids("Without a video.", None), [40, 41, 42], None),
        Row(forward.prompt_ids("When?", shown), [50, 51, 52, 53], shown),
        Row(forward.prompt_ids("When?", longer), [32, 33, 34], longer),
        Row(forward.prompt_ids("When?", longer), [30], longer),
        Row(forward.prompt_ids("Without a video.", None), [43], None),
        *(Row(forward.prompt_ids("When?", clip), [60, 61], clip) for clip in more),
    ]


def towers_of(model, forward):
    return [model.get_submodule(path) for path in forward.side.towers]


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_each_row_alone(case, policy, forward_of, temperature):
    forward = forward_of(temperature=temperature)
    rows = rows_of(case, forward)
    scores = forward.score(policy[0], rows, entropies=True)
    for place, row in enumerate(rows):
        table = case.score(*policy, row, temperature)
        length = len(row.completion_ids)
        entropies = -(table.exp() * table).sum(1)
        assert scores.logps[place, :length].tolist() == pytest.approx(picked(table, row).tolist(), abs=1e-5)
        assert scores.entropies[place, :length].tolist() == pytest.approx(entropies.tolist(), abs=1e-4)
        assert scores.mask[place].tolist() == [True] * length + [False] * (5 - length)
        assert scores.logps[place, length:].abs().sum() == 0


def test_a_prompt_is_computed_once_for_all_its_completions(case, policy, forward_of):
    model, forward = policy[0], forward_of()
    clip = case.clip("a", 4, 1)
    prompt = forward.prompt_ids("When?", clip)
    rows = [Row(prompt, [20 + i] * length, clip) for i, length in enumerate((3, 1, 2))]
    shapes = []
    decoder = model.get_submodule(case.decoder)
    handle = decoder.register_forward_hook(lambda *it: shapes.append(it[-1][0].shape[:2]))
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


@pytest.mark.parametrize("how", ["checkpointing", "bfloat16"])
def test_gradients_of_shared_prompts_when_layers_are_computed_again_or_in_half_precision(case, tmp_path, how):
    model, processor = case.load(case.save(tmp_path, seed=5))
    model.train()
    forward = VideoForward(processor, case.family)
    rows = rows_of(case, forward)

    def run():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "bfloat16"):
            logps = forward.score(model, rows).logps
            logps.exp().sum().backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return torch.cat([logps.detach().flatten(), flat / flat.norm()])

    forward.share_prompts = how == "bfloat16"
    wanted = run()
    if how == "checkpointing":
        forward.share_prompts = True
        model.gradient_checkpointing_enable()
    else:
        how = "float32"
    found = run()
    assert float((found - wanted).abs().max()) < (0.05 if how == "float32" else 1e-5)


@torch.no_grad()
def test_attention_without_masks_of_its_own_gets_every_row_by_itself(case, policy, forward_of, monkeypatch):
    model, forward = policy[0], forward_of()
    rows = rows_of(case, forward)
    wanted = forward.score(model, rows).logps
    monkeypatch.setattr(model.config, "_attn_implementation", "eager")
    widths = []
    decoder = model.get_submodule(case.decoder)
    handle = decoder.register_forward_hook(lambda *it: widths.append(it[-1][0].shape[0]))
    assert torch.allclose(forward.score(model, rows).logps, wanted, atol=1e-5)
    handle.remove()
    assert widths == [len(rows)]


@torch.no_grad()
def test_frozen_towers_features_are_computed_once_and_change_nothing(case, policy, forward_of):
    model, free, frozen = policy[0], forward_of(), forward_of(frozen_vision=True)
    rows = rows_of(case, free)
    wanted = free.score(model, rows).logps
    calls = []
    towers = towers_of(model, free)
    handles = [tower.register_forward_hook(lambda tower, *_: calls.append(tower)) for tower in towers]
    for _ in range(2):
        assert torch.allclose(frozen.score(model, rows).logps, wanted, atol=2e-6)
    for handle in handles:
        handle.remove()
    assert [calls.count(tower) for tower in towers] == [1] * len(towers)


def test_towers_learn_unless_they_are_frozen(case, policy, forward_of):
    model = policy[0]
    for frozen in (False, True):
        model.zero_grad()
        forward = forward_of(frozen_vision=frozen)
        forward.score(model, rows_of(case, forward)).logps.sum().backward()
        for tower in towers_of(model, forward):
            slopes = [p.grad for p in tower.parameters() if p.grad is not None]
            assert (not any(slope.abs().sum() > 0 for slope in slopes)) == frozen
    model.zero_grad()


@pytest.fixture
def mesh():
    """One worker's gloo mesh: weights become sharded tensors, as with many."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_sharded_model_scores_as_a_whole_one(case, tmp_path, mesh, frozen):
    model, processor = case.load(case.save(tmp_path, seed=5))
    forward = VideoForward(processor, case.family, frozen_vision=frozen)
    for tower in towers_of(model, forward):
        tower.requires_grad_(not frozen)
    rows = rows_of(case, forward)
    whole = forward.score(model, rows).logps
    whole.sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    layers = [module for module in model.modules() if type(module).__name__ in forward.side.sharded_layers]
    assert {type(layer).__name__ for layer in layers} == set(forward.side.sharded_layers)
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    scores = VideoForward(processor, case.family, frozen_vision=frozen).score(model, rows).logps
    scores.sum().backward()
    assert torch.allclose(scores, whole, atol=2e-6)
    found = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-4), name


@torch.no_grad()
def test_banned_tokens_have_no_probability_unless_given_texts_are_learned(policy, forward_of):
    row = Row([1, 2, 3], [policy[1].tokenizer.pad_token_id])
    assert forward_of().score(policy[0], [row]).logps.item() < -90
    assert forward_of(banned=False).score(policy[0], [row]).logps.item() > -12


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
