"""Attention by lines against a dense formula: values, gradients, memory, and inside the models of each family."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from ravst_ray.training.attention import LineAttention, attend, attend_by_lines, blocks_of, lines_mask

# Where each line's prompt begins, its completions begin, and each ends; the rest up to LENGTH is padding.
LENGTH = 17
RAGGED = [[3, 9, 12, 13, 17], [0, 9, 10, 14, 14], [7, 9, 11, 11, 13], [2, 9, 9, 9, 9]]
LINES = {
    "ragged": RAGGED,
    "one completion each": [[3, 9, 17], [0, 9, 12], [0, 9, 9]],
    "single tokens": [[0, 14, 15, 16, 17]],
    "as many as lines have": [[4, 9, 13, 17], [0, 5, 7, 9], [1, 2, 3]],
}


def who_sees_whom(lines, length=LENGTH):
    """``[B, L, L]``, true where a column sees another (of the prompt, of its own part); and padding ``[B, L]``."""
    parts = torch.full((len(lines), length), -1)
    for line, (start, first, *ends) in enumerate(lines):
        parts[line, start:first] = 0
        for number, (begin, end) in enumerate(zip([first, *ends], ends, strict=False), start=1):
            parts[line, begin:end] = number
    asking, asked = parts[:, :, None], parts[:, None, :]
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    return earlier & ((asked == 0) | (asked == asking)), parts < 0


def dense(query, key, value, lines, scale):
    """The formula, with all scores at once; zeros at padding."""
    seen, padding = who_sees_whom(lines, query.shape[2])
    key, value = (one.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for one in (key, value))
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~seen[:, None], -torch.inf)
    return (scores.softmax(-1) @ value).masked_fill(padding[:, None, :, None], 0)


def case(lines, heads=(6, 2), width=8, dtype=torch.float32, length=LENGTH):
    """Query, key and value, in memory as the layers of transformers have them, and a gradient."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(len(lines), length, n, width, generator=generator) for n in (*heads, heads[1], heads[0])]
    query, key, value, given = (one.to(dtype).transpose(1, 2) for one in made)
    return [one.requires_grad_() for one in (query, key, value)], given


def by_lines(inputs, lines, scale=0.3):
    return LineAttention.apply(*inputs, blocks_of(lines_mask(lines)), scale)


@pytest.mark.parametrize("heads", [(6, 2), (2, 2), (3, 1)], ids=["grouped", "own keys", "one key head"])
@pytest.mark.parametrize("lines", LINES.values(), ids=LINES.keys())
def test_values_and_gradients_are_those_of_the_dense_formula(lines, heads):
    inputs, given = case(lines, heads)
    found, wanted = by_lines(inputs, lines), dense(*inputs, lines, 0.3)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, given), torch.autograd.grad(wanted, inputs, given), atol=1e-5, rtol=0
    )


def test_nothing_is_lost_in_putting_blocks_together():
    """In float64 what is left is rounding: the merge and its gradient are exact, not close."""
    inputs, given = case(RAGGED, dtype=torch.float64)
    found, wanted = by_lines(inputs, RAGGED), dense(*inputs, RAGGED, 0.3)
    torch.testing.assert_close(found, wanted, atol=1e-13, rtol=0)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, given), torch.autograd.grad(wanted, inputs, given), atol=1e-13, rtol=0
    )


def test_scores_far_apart_give_numbers():
    """One block's softmax is nothing beside the other's, either way; no exponential overflows."""
    (query, key, value), given = case(RAGGED)
    for factor in (60.0, -60.0):
        inputs = [query, (key * factor).detach().requires_grad_(), value]
        found, wanted = by_lines(inputs, RAGGED), dense(*inputs, RAGGED, 0.3)
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=0)
        for ours, right in zip(
            torch.autograd.grad(found, inputs, given), torch.autograd.grad(wanted, inputs, given), strict=True
        ):
            torch.testing.assert_close(ours, right, atol=1e-5 * float(right.abs().max()), rtol=0)


def test_padding_is_zero_and_gets_no_gradient_whatever_it_holds():
    inputs, given = case(RAGGED)
    padding = who_sees_whom(RAGGED)[1][:, None, :, None]
    with torch.no_grad():
        for one in inputs:
            one.masked_fill_(padding, torch.nan)
    found = by_lines(inputs, RAGGED)
    assert found.isfinite().all()
    assert not found.masked_select(padding).any()
    for gradient in torch.autograd.grad(found, inputs, given):
        assert gradient.isfinite().all()
        assert not gradient.masked_select(padding).any()


def test_a_gradient_that_is_one_number_expanded():
    inputs, _ = case(RAGGED)
    found = torch.autograd.grad(by_lines(inputs, RAGGED).sum(), inputs)
    wanted = torch.autograd.grad(dense(*inputs, RAGGED, 0.3).sum(), inputs)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_half_precision_is_as_near_as_its_own_rounding():
    inputs, given = case(RAGGED, dtype=torch.bfloat16)
    exact = [one.detach().double().requires_grad_() for one in inputs]
    found, wanted = by_lines(inputs, RAGGED), dense(*exact, RAGGED, 0.3)
    assert found.dtype == torch.bfloat16
    ours = (found.detach(), *torch.autograd.grad(found, inputs, given))
    right = (wanted.detach(), *torch.autograd.grad(wanted, exact, given.double()))
    for one, other in zip(ours, right, strict=True):
        assert float((one - other).abs().max()) < 2**-6 * float(other.abs().max())


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_layer_computed_again_in_backward(reentrant):
    inputs, given = case(RAGGED)
    mask = lines_mask(RAGGED)

    def layer(*those):
        return attend(None, *those, mask, scaling=0.3)[0].transpose(1, 2)

    found = checkpoint(layer, *inputs, use_reentrant=reentrant)
    found.backward(given)
    wanted = torch.autograd.grad(dense(*inputs, RAGGED, 0.3), inputs, given)
    torch.testing.assert_close([one.grad for one in inputs], list(wanted), atol=1e-5, rtol=0)


def test_under_autocast_all_three_are_of_its_precision():
    (query, key, value), _ = case(RAGGED)
    value = value.bfloat16()  # as layers have it: what was rotated is float32
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = attend(None, query, key, value, lines_mask(RAGGED), scaling=0.3)
    assert out.dtype == torch.bfloat16
    wanted = dense(*(one.bfloat16().double() for one in (query, key, value)), RAGGED, 0.3).transpose(1, 2)
    assert float((out - wanted).detach().abs().max()) < 2**-6 * float(wanted.detach().abs().max())


def test_a_mask_is_read_once():
    mask = lines_mask(RAGGED)
    assert blocks_of(mask) is blocks_of(mask)
    assert mask.shape == (4, 1, 1, 5)
    assert blocks_of(mask.clone()) == blocks_of(mask)


def test_dropout_is_refused():
    with pytest.raises(ValueError, match="no dropout"):
        attend(None, *case(RAGGED)[0], lines_mask(RAGGED), dropout=0.1)


def peak_bytes(compute):
    """The most bytes that the allocator had given away at once, those inside kernels included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        compute()
    events = profile.profiler.kineto_results.events()
    now = most = 0
    for _, size in sorted((one.start_ns(), one.nbytes()) for one in events if one.name() == "[memory]"):
        now += size
        most = max(most, now)
    return most


def test_memory_grows_with_the_length_and_not_with_its_square():
    length, completion = 2048, 64
    found = []
    for long in (length, 2 * length):
        first = long - 8 * completion
        lines = [[5, first, *range(first + completion, long + 1, completion)]]
        inputs, given = case(lines, (4, 2), 16, length=long)
        found.append(peak_bytes(lambda i=inputs, n=lines, g=given: by_lines(i, n).backward(g)))
    assert found[1] < 2.1 * found[0]
    assert found[1] < (2 * length) ** 2  # bytes of a mask
    (query, key, value), given = case(lines, (4, 4), 16, length=long)
    mask = torch.ones(long, long, dtype=torch.bool).tril()
    plain = torch.nn.functional.scaled_dot_product_attention
    assert peak_bytes(lambda: plain(query, key, value, mask).backward(given)) > 4 * (2 * length) ** 2  # it would show


def tiny_text_models():
    """Of each family: the whole model, random, and its text layers."""
    import transformers

    text = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
        "pad_token_id": 0,
    }
    sections = {"rope_type": "default", "rope_theta": 1e4}
    two = {"rope_parameters": {**sections, "mrope_section": [2, 2, 4]}}
    three = {"rope_parameters": {**sections, "mrope_section": [4, 2, 2], "mrope_interleaved": True}, "head_dim": 16}
    towers = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32}
    omni = transformers.Qwen2_5OmniThinkerConfig(
        text_config=text | two,
        vision_config=towers | {"out_hidden_size": 64},
        audio_config={"encoder_layers": 1, "d_model": 32, "encoder_attention_heads": 2, "output_dim": 64},
    )
    vl = transformers.Qwen2_5_VLConfig(text_config=text | two, vision_config=towers | {"out_hidden_size": 64})
    vl3 = transformers.Qwen3VLConfig(
        text_config=text | three,
        vision_config=towers | {"out_hidden_size": 64, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    )
    return {
        "Qwen2.5-VL": (transformers.Qwen2_5_VLForConditionalGeneration, vl),
        "Qwen3-VL": (transformers.Qwen3VLForConditionalGeneration, vl3),
        "Qwen2.5-Omni": (transformers.Qwen2_5OmniThinkerForConditionalGeneration, omni),
    }


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["Qwen2.5-VL", "Qwen3-VL", "Qwen2.5-Omni"])
def test_text_layers_of_every_family(family, checkpointing, tmp_path):
    make, config = tiny_text_models()[family]
    torch.manual_seed(0)
    model = make(config).train()
    text = getattr(model.model, "language_model", model.model)
    if checkpointing:
        model.gradient_checkpointing_enable()
    generator = torch.Generator().manual_seed(1)
    embedded = torch.randn(len(RAGGED), LENGTH, 64, generator=generator)
    positions = torch.randint(0, 30, (3, len(RAGGED), LENGTH), generator=generator)
    seen, padding = who_sees_whom(RAGGED)

    def run(mask):
        model.zero_grad()
        out = text(inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False)
        real = out.last_hidden_state.masked_fill(padding[..., None], 0)
        (real * torch.linspace(-1, 1, 64)).sum().backward()
        return real.detach(), {name: one.grad.clone() for name, one in text.named_parameters() if one.grad is not None}

    wanted, wanted_gradients = run(seen[:, None])  # transformers' sdpa
    assert attend_by_lines(model)
    found, gradients = run(lines_mask(RAGGED))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert gradients.keys() == wanted_gradients.keys() != set()
    for name, right in wanted_gradients.items():
        torch.testing.assert_close(
            gradients[name], right, atol=1e-5 * max(1, float(right.abs().max())), rtol=0, msg=name
        )
    torch.testing.assert_close(run(seen[:, None])[0], wanted, atol=0, rtol=0)  # other masks go where they went
    visual = getattr(model, "visual", None) or model.model.visual
    assert (text.config._attn_implementation, visual.config._attn_implementation) == ("ravst_lines", "sdpa")
    model.config.save_pretrained(tmp_path)
    assert "ravst_lines" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize(
    "other",
    [{"_attn_implementation": "eager"}, {"attention_dropout": 0.1}, {"layer_types": ["sliding_attention"] * 2}],
    ids=["eager", "dropout", "windows"],
)
def test_what_lines_do_not_cover_stays_as_it_is(other):
    make, config = tiny_text_models()["Qwen2.5-VL"]
    model = make(config)
    text = model.model.language_model.config
    before = text._attn_implementation
    for name, value in other.items():
        setattr(text, name, value)
    assert not attend_by_lines(model)
    assert text._attn_implementation == other.get("_attn_implementation", before)
