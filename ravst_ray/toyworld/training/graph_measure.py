"""How well the toy policy that writes graphs replies, without an engine; and the card that says so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ravst_ray.config.rewards import RewardConfig
from ravst_ray.core.names import NameMatcher
from ravst_ray.policy.families.qwen2_5_vl import Qwen25VL
from ravst_ray.tasks.video_str import VIDEO_STR
from ravst_ray.toyworld.training.graph_lessons import Asked, question_text
from ravst_ray.toyworld.training.policy import POLICY
from ravst_ray.toyworld.training.policy_graph import GRAPHS
from ravst_ray.toyworld.training.policy_measure import greedy_tokens
from ravst_ray.toyworld.training.policy_pool import Painted
from ravst_ray.training.forward import Row, VideoForward

MAX_TOKENS = 200


def greedy_replies(model: Any, processor: Any, pairs: Sequence[tuple[Painted, Asked]], size: int = 24) -> list[str]:
    """Greedy replies to questions about scenes; ``size`` of them at once."""
    forward, tokenizer = VideoForward(processor, Qwen25VL()), processor.tokenizer
    order = sorted(range(len(pairs)), key=lambda place: len(pairs[place][1].reply))
    said = [""] * len(pairs)
    for first in range(0, len(order), size):
        places = order[first : first + size]
        rows = []
        for place in places:
            scene, asked = pairs[place]
            rows.append(Row(forward.prompt_ids(question_text(asked.text, scene.view), scene.clip), [], scene.clip))
        for place, ids in zip(
            places, greedy_tokens(forward, model, rows, MAX_TOKENS, tokenizer.eos_token_id), strict=True
        ):
            said[place] = tokenizer.decode(ids, skip_special_tokens=True)
    return said


def scores(reply: str, truth: str) -> dict[str, float]:
    """Metrics of a reply beside the true one, each in [0, 1]; boxes in pixels of the policy's frames."""
    return VIDEO_STR.measure(VIDEO_STR.parse(truth), VIDEO_STR.parse(reply), NameMatcher(), RewardConfig())


def measure(model: Any, processor: Any, pairs: Sequence[tuple[Painted, Asked]]) -> dict[str, float]:
    """Means over the questions, and of the answers by kind."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for (_, asked), reply in zip(pairs, greedy_replies(model, processor, pairs), strict=True):
        parts = scores(reply, asked.reply)
        for key, value in parts.items():
            found[key].append(value)
        found[f"answer/{asked.kind}"].append(parts["score"])
    return {"questions": float(len(pairs)), **{key: float(np.mean(values)) for key, values in sorted(found.items())}}


def graph_card(numbers: Mapping[str, float], steps: Sequence[int], minutes: Sequence[float], parameters: int) -> str:
    """What the model is, how it was made, and how well it does."""
    rows = [
        f"| {key.removeprefix('answer/')} | {value:.3f} |"
        for key, value in numbers.items()
        if key.startswith("answer/")
    ]
    table = "\n".join(["| kind of question | answer |", "| --- | --- |", *rows])
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
---
# {GRAPHS.name}

Qwen2.5-VL (transformers' `Qwen2_5_VLForConditionalGeneration`) with {parameters / 1e6:.2f} M parameters, which answers
questions about the toy world of this package behind a graph of where things are. It goes on from
`{POLICY.name}`, with tokens of its own for the pieces of a graph, shares with two decimals and the wordings of
questions. It stands in for `Qwen/Qwen2.5-VL-7B-Instruct` where Video-STR is tried and tested, and is loaded by the same
code. It keeps the grammar and errs: its training ended early, so that reinforcement learning has something to find
out. It knows no other world, and no other prompt than `PromptConfig(state_grammar=False)` on frames of 112 x 112
pixels, one a second.

- **Data**: random toy scenes, frames JPEG-roughened and blurred; questions by the rules of `ravst make-str`, seconds
  asked about whole.
- **Training**: {steps[0]} steps in {minutes[0]:g} min on graphs and counting, then {steps[1]} steps in {minutes[1]:g}
  min on all kinds, on one (busy) CPU core: `python -m ravst_ray.toyworld.training.train_graph`
- **Accuracy** of greedy replies to {numbers["questions"]:.0f} questions about unseen scenes: answer
  {numbers["score"]:.3f}, format {numbers["format"]:.3f}, node {numbers["node"]:.3f}, edge {numbers["edge"]:.3f}, and

{table}
"""
