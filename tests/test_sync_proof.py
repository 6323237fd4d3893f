"""The proof of a weight update: noise as of bf16 never stops a run, weights that stayed behind do."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import ravst_ray.toyworld
from ravst_ray.errors import AbortError
from ravst_ray.policy.protocols import Completion
from ravst_ray.policy.weight_checksum import weight_checksum
from ravst_ray.training.forward import Row, VideoForward
from ravst_ray.training.groups import Group
from ravst_ray.training.sync_proof import GapLimit, logprob_gap, typical_gap
from ravst_ray.training.weight_check import Held, behind
from tests.tiny_policies import FAMILY, load_tiny

TRAINED = Path(ravst_ray.toyworld.__file__).parent / "checkpoints" / "qwen2_5_vl-tiny-toy"


def noisy_probe(rng, unsure, tokens=512):
    """Log-probs of two sides: tokens that are sure but for a share, and noise that grows with what is unlikely."""
    theirs = np.where(rng.random(tokens) < unsure, -rng.exponential(1.5, tokens), -rng.exponential(0.005, tokens))
    noise = 0.02 * rng.standard_t(2, tokens) * np.minimum(-theirs, 3.0)
    return theirs + noise, theirs


def test_noise_as_of_bf16_never_stops_a_run():
    """Its tail is heavy (Student's t, 2 degrees), and the policy's entropy grows and falls twentyfold on the way."""
    rng = np.random.default_rng(0)
    limit, gaps, means = GapLimit(None), [], []
    for probe in range(501):
        unsure = 0.3 * 20 ** (0.5 * math.sin(probe / 40))
        ours, theirs = noisy_probe(rng, min(unsure, 0.95))
        gaps.append(typical_gap(ours, theirs))
        limit.check(gaps[-1], probe, probe)
        means.append(np.abs(ours - theirs)[:24].mean())
    assert limit.start == gaps[0] and max(gaps) < 0.6 * limit.value
    assert sum(mean > 0.05 for mean in means) > 10  # each ends a run that compares the mean of 24 tokens with 0.05


def sampled(engine, forward, prompts, seed):
    """What an engine with these weights samples, with its log-probs; four answers of 24 tokens to each prompt."""
    torch.manual_seed(seed)
    groups = []
    for name in prompts:
        prompt = forward.prompt_ids(name, None)
        ids = torch.tensor([prompt])
        with torch.no_grad():
            made = engine.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=24,
                min_new_tokens=24, num_return_sequences=4,
            )[:, len(prompt) :].tolist()  # fmt: skip
            scores = forward.score(engine, [Row(prompt, one) for one in made])
        made = [
            Completion(tuple(one), tuple(logps.tolist()), (0,) * 24, "", False)
            for one, logps in zip(made, scores.logps.float(), strict=True)
        ]
        groups.append(Group(name, "AVTR", tuple(prompt), None, tuple(made)))
    return groups


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_engine_that_kept_the_weights_of_some_updates_ago_is_found(dtype):
    model, processor = load_tiny(TRAINED)
    forward = VideoForward(processor, FAMILY)
    prompts = [f"When is the moment {name} makes sound and is visible?" for name in ("red ball", "dog", "bell", "car")]
    engine = copy.deepcopy(model).to(dtype)
    limit = GapLimit(None)
    probe = sampled(engine, forward, prompts, 0)
    limit.check(logprob_gap(model, forward, probe), 0, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    rows = [Row(probe[0].prompt_ids, one.token_ids) for one in probe[0].completions]
    for _ in range(2):
        optimizer.zero_grad()
        forward.score(model, rows).logps[0].mean().neg().backward()
        optimizer.step()
    fresh = sampled(copy.deepcopy(model).to(dtype), forward, prompts, 1)
    limit.check(logprob_gap(model, forward, fresh), 2, 2)
    stale = logprob_gap(model, forward, sampled(engine, forward, prompts, 1))
    with pytest.raises(AbortError, match="both have version 2: the engine did not take the weights"):
        limit.check(stale, 2, 2)


def test_the_gap_is_the_median_of_what_is_unsure():
    ours = np.array([-0.01] * 400 + [-1.0] * 41)
    theirs = ours.copy()
    theirs[400:] += np.linspace(0.0, 0.4, 41)
    theirs[0] = np.nan  # unknown to the sampler: unsure, and far
    assert typical_gap(ours, theirs) == pytest.approx((0.2 + 0.21) / 2)
    assert typical_gap(ours[:100], theirs[:100] + 0.3) == pytest.approx(0.3)  # nothing is: the 32 least sure
    assert typical_gap(ours[:40], np.full(40, np.nan)) == math.inf


def test_the_limit_follows_the_first_gap():
    limit = GapLimit(None)
    assert limit.value == 0.25
    limit.check(0.04, 0, 0)
    limit.check(0.01, 1, 1)
    assert (limit.start, limit.value) == (0.04, 0.16)
    small, large = GapLimit(None), GapLimit(None)
    small.start, large.start = 1e-6, 0.2
    assert (small.value, large.value) == (0.02, 0.25)
    with pytest.raises(AbortError, match="nothing was learned yet: the two sides compute otherwise"):
        GapLimit(None).check(0.3, 0, 0)
    fixed = GapLimit(0.5)
    fixed.check(0.4, 3, 3)
    with pytest.raises(AbortError, match=r"differ by 0.6000 \(limit 0.5000\); both have version 3"):
        fixed.check(0.6, 3, 3)
    with pytest.raises(AbortError, match="the engine is stale: it has version 2, the learner 3"):
        fixed.check(0.0, 2, 3)


def test_engines_that_lack_a_version_are_named():
    def held(*sums, version=2):
        return {name: Held(version, (one,)) for name, one in enumerate(sums)}

    before = held("a", "a", "a", version=1)
    assert behind(held("b", "b", "b"), before, 2) == set()
    assert behind(held("a", "a", "a"), before, 2) == set()  # the step changed nothing
    assert behind(held("a", "a", "b"), before, 2) == {0, 1}  # two are stale, though they are more
    assert behind(held("b", "c", "b"), before, 2) == {1}
    assert behind(held("b", "c", "b"), {}, 2) == {1}
    assert behind(held("b", "b") | {5: Held(1, ("b",))}, before, 2) == {5}
    assert behind({}, before, 2) == set()
    with pytest.raises(AbortError, match=r"version 2 differ between engines \(2 kinds among 2\)"):
        behind(held("b", "c"), before, 2)


def test_a_checksum_is_of_names_and_bits():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3)).bfloat16()
    first = weight_checksum(model)
    kept = model[0].weight[1, 2].item()
    with torch.no_grad():
        model[0].weight[1, 2] = math.nextafter(1.0, 2.0) if kept == 1.0 else kept * (1 + 2**-7)
    assert weight_checksum(model) != first
    with torch.no_grad():
        model[0].weight[1, 2] = kept
    assert weight_checksum(model) == first
    model[0].lora_b_stacked = (torch.zeros(1, 1, 3, 8),)  # as vLLM keeps an adapter: beside the parameters
    zero = weight_checksum(model)
    model[0].lora_b_stacked[0][0, 0, 2, 1] = 1e-30
    assert len({first, zero, weight_checksum(model)}) == 3
