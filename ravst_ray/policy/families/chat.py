"""What families of the Qwen kind have in common: chat templates, placeholders, tokens that nobody may write or say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ravst_ray.errors import ConfigError, StepError

_SPECIAL = re.compile(r"<\|\w+\|>")


def special_in(text: str) -> str:
    """The first of a model's own tokens that is written out in a text, or nothing.

    A tokenizer makes no difference between those of the chat template and those that a text quotes.

        >>> special_in("a <|video_pad|> dog"), special_in("a | dog")
        ('<|video_pad|>', '')
    """
    found = _SPECIAL.search(text)
    return found.group() if found else ""


def chat_text(
    tokenizer: Any, text: str, place: str = "", media: Sequence[str] = ("video",), template: str | None = None
) -> str:
    """The prompt as text: the chat template around what is shown and ``text``, up to where the model speaks.

    Args:
        tokenizer: the model's.
        text: what is asked.
        place: the placeholder that the template has for the video; empty: text alone.
        media: kinds of what is shown, in their order.
        template: for tokenizers that have none.

    Raises:
        StepError: ``bad_prompt``, a token of the model's own is written out in ``text``.
        ConfigError: the chat template has no place for a video, or there is none.
    """
    if special := special_in(text):
        raise StepError("bad_prompt", f"{special} stands in the question: the model would take it for its own token")
    if not (template := tokenizer.chat_template or template):
        raise ConfigError("the model's tokenizer has no chat template; add its chat_template.jinja to the directory")
    content = [*({"type": kind} for kind in media), {"type": "text", "text": text}] if place else text
    rendered: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], chat_template=template, tokenize=False, add_generation_prompt=True
    )
    if place and rendered.count(place) != 1:
        raise ConfigError("the model's chat template has no place for a video; use one made for video")
    return rendered


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text in which special tokens are special."""
    found: list[int] = tokenizer(text)["input_ids"]
    return found


def expanded(ids: Sequence[int], place: int, count: int) -> list[int]:
    """Token ids with the one placeholder ``place`` repeated ``count`` times."""
    at = list(ids).index(place)
    return [*ids[:at], *[place] * count, *ids[at + 1 :]]


def ids_to_ban(tokenizer: Any, media: Sequence[str]) -> list[int]:
    """Ids of the tokens ``media``, and of padding unless it ends an answer, too."""
    vocabulary = tokenizer.get_vocab()
    banned = {vocabulary[token] for token in media if token in vocabulary}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        banned.add(tokenizer.pad_token_id)
    return sorted(banned)


def vl_positions(
    prompt_ids: Sequence[int],
    video_token: int,
    grid_thw: Sequence[int],
    seconds_per_grid: float,
    tokens_per_second: float,
    merge: int = 2,
) -> np.ndarray:
    """Multimodal rotary positions of a prompt with one video, as vLLM computes them.

    Args:
        prompt_ids: token ids, the video's placeholders expanded.
        video_token: the placeholder's id.
        grid_thw: patches of the video: time, height, width.
        seconds_per_grid: seconds of one temporal patch.
        tokens_per_second: of the vision configuration.
        merge: patches of a side that become one token.

    Returns:
        ``int64 [3, L]``; what follows the prompt counts on from the largest position.

    Raises:
        ValueError: the placeholders don't fit the grid.
    """
    ids = np.asarray(prompt_ids)
    time, height, width = grid_thw[0], grid_thw[1] // merge, grid_thw[2] // merge
    places = np.flatnonzero(ids == video_token)
    count = time * height * width
    if len(places) != count or (count and places[-1] - places[0] + 1 != count):
        raise ValueError(f"{len(places)} placeholders of video in the prompt, the grid {list(grid_thw)} has {count}")
    start = int(places[0])
    grid = np.indices((time, height, width)).reshape(3, -1)
    # To float32 and back, as the seconds come out of vLLM's tensor.
    grid[0] = (grid[0] * (float(np.float32(seconds_per_grid)) * tokens_per_second)).astype(np.int64)
    video = grid + start
    before = np.broadcast_to(np.arange(start), (3, start))
    rest = len(ids) - start - count
    after = np.broadcast_to(np.arange(rest), (3, rest)) + video.max() + 1
    return np.concatenate([before, video, after], axis=1).astype(np.int64)
