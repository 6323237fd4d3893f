"""How long the true answers are in tokens, and how many are out of the model's reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ravst_ray.config.video_llm import PredictConfig
from ravst_ray.datasets.tasks import VideoTask
from ravst_ray.models.pretrained import loading, model_source
from ravst_ray.tasks import TASKS
from ravst_ray.tasks.spaces import AnswerSpace


def answer_lengths(tasks: Sequence[VideoTask], config: PredictConfig) -> list[str]:
    """A line per task: the share of true answers, as the model should give them, that are longer than ``max_tokens``.

    Boxes are taken at their size in the dataset (the frames' size is not known before decoding), in whole numbers and
    every ``box_step_s`` as the prompt asks.

    Raises:
        ConfigError: the model's tokenizer can't be loaded.
    """
    from transformers import AutoTokenizer

    model = model_source(config.engine.model, "engine.model")
    with loading(model, "engine.model"):
        tokenizer = AutoTokenizer.from_pretrained(model)
    space = AnswerSpace(1.0, 1.0, config.prompt.integer_boxes, config.prompt.box_step_s)
    limit = config.sampling.max_tokens
    lines, most = [], 0.0
    for name, task in TASKS.items():
        answers = [pair.answer for video in tasks for pair in video.questions if pair.task == name]
        if not answers:
            continue
        encoded = tokenizer([task.to_model(answer, space) for answer in answers], add_special_tokens=False)["input_ids"]
        lengths = np.array([len(ids) + 1 for ids in encoded])  # and the end token
        share = 100 * float((lengths > limit).mean())
        most = max(most, share)
        lines.append(
            f"{name}: {share:.1f}% of {len(answers)} true answers are longer than sampling.max_tokens = {limit} "
            f"(median {int(np.median(lengths))}, longest {lengths.max()} tokens)"
        )
    if most > 0:
        lines.append("what is longer can't be answered in full: raise sampling.max_tokens or prompt.box_step_s")
    return lines
