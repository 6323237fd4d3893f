"""What a policy gives back. This module imports no heavy library."""

from __future__ import annotations

from dataclasses import dataclass

BAN = -100.0
"""What is added to the logit of a banned token: the lowest that vLLM takes."""


@dataclass(frozen=True)
class Completion:
    """One answer of the model.

    Attributes:
        token_ids: what was sampled, the end token included where it was reached.
        logprobs: of those tokens under the distribution that they were sampled from (after temperature and bans); empty
            unless asked for.
        versions: the weight version that each token was sampled with; empty for an engine that never gets others.
        text: decoded, without special tokens.
        truncated: the token limit was hit.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    versions: tuple[int, ...]
    text: str
    truncated: bool


@dataclass(frozen=True)
class Generation:
    """The completions of one prompt, and its token ids with the video's placeholders expanded."""

    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
