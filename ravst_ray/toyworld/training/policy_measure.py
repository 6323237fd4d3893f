"""How well the toy policy answers, without an engine; and the card that says so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ravst_ray.core.answers import ObjectAnswer, parse, render
from ravst_ray.policy.families.protocols import Family
from ravst_ray.tasks import task_of, weights_of
from ravst_ray.tasks.rubric import Rubric
from ravst_ray.toyworld.training.policy_annotators import CARELESS_SHARE, LARGER, LONGER
from ravst_ray.toyworld.training.policy_pool import Painted, Question
from ravst_ray.training.forward import Row, VideoForward

MAX_TOKENS = 288


@torch.no_grad()
def greedy_tokens(forward: VideoForward, model: Any, rows: Sequence[Row], most: int, end: int) -> list[list[int]]:
    """Greedy completions with the positions of :class:`VideoForward` (transformers' own differ after a video)."""
    batch = forward.collate([[row] for row in rows], model.config)
    mask, positions = batch["attention_mask"], batch["position_ids"]
    seen, _ = forward.seen(rows, model, mask.device)
    out = forward.side.call(model, model, {**batch, "use_cache": True, "logits_to_keep": 1}, seen)
    at = positions.amax(dim=(0, 2)) + 1
    found: list[list[int]] = [[] for _ in rows]
    open_rows = set(range(len(rows)))
    for _ in range(most):
        token = out.logits[:, -1].argmax(-1)
        for place in list(open_rows):
            found[place].append(int(token[place]))
            if int(token[place]) == end:
                open_rows.remove(place)
        if not open_rows:
            break
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        out = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=at[None, :, None].expand(3, -1, 1),
            past_key_values=out.past_key_values,
            use_cache=True,
        )
        at = at + 1
    return found


def greedy_answers(
    model: Any, processor: Any, family: Family, pairs: Sequence[tuple[Painted, Question]], size: int = 24
) -> list[str]:
    """Greedy answers to questions about scenes, in the dataset's space; ``size`` of them at once."""
    forward, tokenizer = VideoForward(processor, family), processor.tokenizer
    # Those of about the same length together: a batch takes as long as its longest prompt and answer.
    order = sorted(range(len(pairs)), key=lambda place: (pairs[place][1].task, len(pairs[place][1].answer)))
    said = [""] * len(pairs)
    for first in range(0, len(order), size):
        places = order[first : first + size]
        batch = [pairs[place] for place in places]
        rows = [
            Row(forward.prompt_ids(scene.prompt(question), scene.clip), [], scene.clip) for scene, question in batch
        ]
        done = greedy_tokens(forward, model, rows, MAX_TOKENS, tokenizer.eos_token_id)
        for place, ids in zip(places, done, strict=True):
            said[place] = pairs[place][0].space.to_video(tokenizer.decode(ids, skip_special_tokens=True))
    return said


def measure(model: Any, processor: Any, family: Family, scenes: Sequence[Painted], size: int = 24) -> dict[str, float]:
    """Greedy answers to every question of the scenes, beside trivial ones: the mean of each part, by task."""
    rubric = Rubric()
    pairs = [(scene, question) for scene in scenes for question in scene.questions]
    found: defaultdict[str, list[float]] = defaultdict(list)
    said = greedy_answers(model, processor, family, pairs, size)
    for (scene, question), answer in zip(pairs, said, strict=True):
        parts = rubric.score(question.task, answer, question.answer).parts
        trivial = rubric.score(question.task, render(_trivial(scene, question)), question.answer).parts
        found["format"].append(parts["format"])
        weights = weights_of(task_of(question.task), rubric.config)
        for part in ("object", "temporal", "spatial"):
            if weights[part]:
                found[f"{question.task}/{part}"].append(parts[part])
                found[f"{question.task}/{part}, trivial"].append(trivial[part])
    means = {key: float(np.mean(values)) for key, values in sorted(found.items())}
    return {"questions": float(len(pairs)), **means}


def _trivial(scene: Painted, question: Question) -> list[ObjectAnswer]:
    """The whole video, and a box over the middle half of either side in each true second, under the true names."""
    side = scene.view.video_width
    box = (side / 4, side / 4, side * 3 / 4, side * 3 / 4)
    return [
        ObjectAnswer(
            one.name,
            (0.0, scene.view.duration_s) if one.when else None,
            tuple((time_s, box) for time_s, _ in one.where) if one.where else None,
        )
        for one in parse(question.answer).objects
    ]


def model_card(
    numbers: dict[str, float], steps: Sequence[int], minutes: Sequence[float], parameters: int, scenes: int
) -> str:
    """What the model is, how it was made, and how well it does."""
    rows = [
        f"| {key} | {value:.3f} | {numbers.get(f'{key}, trivial', float('nan')):.3f} |"
        for key, value in numbers.items()
        if "/" in key and not key.endswith("trivial")
    ]
    table = "\n".join(["| reward part | this model | trivial answer |", "| --- | --- | --- |", *rows])
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
---
# qwen2_5_vl-tiny-toy

Qwen2.5-VL (transformers' `Qwen2_5_VLForConditionalGeneration`) with {parameters / 1e6:.2f} M parameters and a
tokenizer of its own, trained from scratch on the toy world of this package. It stands in for
`Qwen/Qwen2.5-VL-7B-Instruct` in the demo and in the tests, and is loaded by the same code. It keeps the answer
grammar and errs on purpose, by habits that a reward can tell from better ones: reinforcement learning begins here. It
knows no other world, and no other prompt than
`PromptConfig(box_step_s=4.0, state_grammar=False)` on frames of 112 x 112 pixels, one a second.

- **Data**: random toy scenes, frames JPEG-roughened and blurred; every question that annotation would ask.
- **Training**: {steps[0]} steps in {minutes[0]:g} min on what is where and on copying from the question, then
  {steps[1]} steps in {minutes[1]:g} min on true answers, then {steps[2]} steps in {minutes[2]:g} min on those of two
  annotators, of whom one (asked {CARELESS_SHARE:.0%} of the time) makes intervals {LONGER} times as long as they are
  and boxes {LARGER} times as wide and high, and, asked what there is, names the first object alone
  and without its colour; on one (busy) CPU core: `python -m ravst_ray.toyworld.training.train_policy`
- **Accuracy** of greedy answers to {numbers["questions"]:.0f} questions about {scenes} unseen scenes:
  format {numbers["format"]:.3f}, and

{table}

Trivial answers are the whole video, and a box in the middle under the true name in each true second.
"""
