"""The toy policy that hears while it is trained: its forward in batches, and the losses beside that of its answers.

It runs transformers' own modules. What is its own: towers that take all clips at once (transformers' go through chunks
one by one where there is no flash attention), several questions in a line, and two helps: a head that reads from the
tokens of pictures and sound what is there at their time, and attention heads that are told where to look.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ravst_ray.toyworld.scene import NAMES
from ravst_ray.toyworld.training.hearing_lessons import KINDS, PER_SECOND, Batch
from ravst_ray.toyworld.training.policy import SIDE_PX

TAP = 3
_SOUNDS, _EDGES = len(NAMES) + 1, 3
_CHUNKED = "flash_by_chunk"  # transformers hands chunk limits only to attention functions with "flash" in their name


class HearingHead(nn.Module):
    """Reads from hidden states what is seen and heard, and when; thrown away after training.

    Coordinates and times are asked for as the tokens that answers are written in, through those tokens' own embeddings:
    an answer can then be read off what is seen and heard, by one linear map.
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.norm = nn.RMSNorm(hidden)
        self.seen = nn.Linear(hidden, 2 * (len(NAMES) + 1))
        self.boxes = nn.Linear(hidden, 2 * 4 * hidden)
        self.pair = nn.Linear(hidden, hidden)
        self.heard = nn.Linear(hidden, _SOUNDS + _EDGES)
        self.times = nn.Linear(hidden, 2 * hidden)
        self.tower = nn.Linear(hidden, _SOUNDS + _EDGES)

    def loss(
        self, video: torch.Tensor, audio: torch.Tensor, tower: torch.Tensor, batch: Batch, numbers: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and shares of what is right.

        Args:
            video: states of the video tokens, ``[V, D]``.
            audio: states of the tokens of sound, ``[A, D]``.
            tower: features of the sound, ``[A, D]``.
            batch: with what is to be found.
            numbers: embeddings of the tokens 0 … ``SIDE_PX``, ``[SIDE_PX + 1, D]``.
        """
        states, sounds = self.norm(video), self.norm(audio)
        names = self.seen(states).unflatten(-1, (2, -1)).float()
        there = (batch.names > 0).float()
        loss = functional.cross_entropy(names.flatten(0, 1), batch.names.flatten())
        boxes = (self.boxes(states).unflatten(-1, (2, 4, -1)) @ numbers.T).float()
        truth = batch.boxes.round().long().clamp(0, SIDE_PX)
        each = functional.cross_entropy(boxes.flatten(0, 2), truth.flatten(), reduction="none").view(truth.shape)
        loss = loss + 0.5 * (each.mean(-1) * there).sum() / there.sum().clamp(min=1)
        loss = loss + 0.3 * functional.cross_entropy((self.pair(states) @ numbers.T).float(), 2 * batch.pairs)
        right = {}
        for key, read, share in (("heard", self.heard(sounds), 1.0), ("tower", self.tower(tower), 1.0)):
            kinds, edges = read.float().split([_SOUNDS, _EDGES], -1)
            weight = torch.tensor([1.0, 5.0, 5.0], device=edges.device)
            loss = loss + share * functional.cross_entropy(kinds, batch.sounds)
            loss = loss + share * functional.cross_entropy(edges, batch.edges, weight=weight)
            right[key] = (kinds.argmax(-1) == batch.sounds).float().mean()
            right[f"{key}_edges"] = (edges.argmax(-1) == batch.edges)[batch.edges > 0].float().mean()
        seconds, tenths = (self.times(sounds).unflatten(-1, (2, -1)) @ numbers.T).float().unbind(-2)
        second, tenth = batch.ticks // PER_SECOND, batch.ticks % PER_SECOND * 10 // PER_SECOND
        loss = loss + functional.cross_entropy(seconds, second) + functional.cross_entropy(tenths, tenth)
        right["seconds"] = (seconds.argmax(-1) == second).float().mean()
        right["tenths"] = (tenths.argmax(-1) == tenth).float().mean()
        right["names"] = ((names.argmax(-1) == batch.names) * there).sum() / there.sum().clamp(min=1)
        right["error_px"] = ((boxes.argmax(-1) - truth).abs().float().mean(-1) * there).sum() / there.sum().clamp(min=1)
        return loss, right


class Hearer(nn.Module):
    """The thinker, the head that reads its states after the first ``TAP`` layers, and the watched attention heads."""

    def __init__(self, model: Any, processor: Any):
        super().__init__()
        self.model = model
        self.head = HearingHead(model.config.text_config.hidden_size)
        self._numbers = processor.tokenizer.convert_tokens_to_ids([str(number) for number in range(SIDE_PX + 1)])
        video = processor.video_processor
        for name, values in (("pixel_mean", video.image_mean), ("pixel_std", video.image_std)):
            spread = torch.tensor(values).repeat_interleave(model.config.vision_config.patch_size**2 * 2)
            self.register_buffer(name, spread, persistent=False)
        self._tapped: torch.Tensor | None = None
        self._looks: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}
        self._gaze: list[torch.Tensor] = []
        self._places = {model.model.layers[layer].self_attn: (layer, group) for layer, group in KINDS}
        model.model.layers[TAP - 1].register_forward_hook(self._keep)
        self._attend_own_way()

    def _attend_own_way(self) -> None:
        from transformers.modeling_utils import AttentionInterface

        AttentionInterface.register(_CHUNKED, by_chunk)
        own = f"gaze_{id(self)}"  # the registry is the process's
        AttentionInterface.register(own, self._watch)
        for tower in (self.model.visual, self.model.audio_tower):
            tower.config._attn_implementation = _CHUNKED
        self.model.model.config._attn_implementation = own

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._tapped = output[0] if isinstance(output, tuple) else output

    def _watch(self, module: Any, query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        looks = self._looks.get(self._places.get(module))
        if looks is not None and looks[0].shape[1]:
            columns, targets = looks
            group, size = self._places[module][1], query.shape[1] // key.shape[1]
            heads = query[:, group * size : (group + 1) * size]
            at = columns[:, None, :, None].expand(-1, size, -1, heads.shape[-1])
            logits = (heads.gather(2, at) @ key[:, group, None].transpose(-1, -2)).float() * module.scaling
            allowed = (
                args[1]
                .expand(-1, size, -1, -1)
                .gather(2, columns[:, None, :, None].expand(-1, size, -1, logits.shape[-1]))
            )
            logits = logits.masked_fill(~allowed, -1e4)
            there = targets >= 0
            right = logits.gather(3, targets.clamp(min=0)[:, None].expand(-1, size, -1, -1))
            right = right.masked_fill(~there[:, None], -1e4).logsumexp(-1)
            missed = (logits.logsumexp(-1) - right).mean(1)
            real = there.any(-1)
            self._gaze.append((missed * real).sum() / real.sum().clamp(min=1))
        return sdpa_attention_forward(module, query, key, *args, **kwargs)

    @contextmanager
    def first_layers_only(self) -> Iterator[None]:
        """The language model ends at the tap."""
        language = self.model.model
        layers = language.layers
        language.layers = layers[:TAP]
        try:
            yield
        finally:
            language.layers = layers

    def embed(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """What the language model takes, ``[B, L, D]``, and the features of the sound."""
        vision, hearing = self.model.visual, self.model.audio_tower
        pairs = len(batch.pictures)
        sides = [round(batch.pictures.shape[1] ** 0.5)] * 2
        pixels = (batch.pictures.flatten(0, 1).float() / 255 - self.pixel_mean) / self.pixel_std
        # Attention in this tower ends at a pair of pictures, so those of all clips are as good as one long video.
        video = vision(pixels, grid_thw=torch.tensor([[pairs, *sides]], device=pixels.device)).pooler_output
        mel = batch.mel.float()
        audio = hearing(
            mel[:, :, 0], feature_lens=batch.lengths, padded_feature=mel, chunk_lengths=batch.columns
        ).last_hidden_state
        made = self.model.get_input_embeddings()(batch.ids)
        flat = made.flatten(0, 1)
        flat = flat.index_copy(0, batch.video_at, video.to(flat.dtype)).index_copy(
            0, batch.audio_at, audio.to(flat.dtype)
        )
        return flat.view_as(made), audio

    def hidden(self, batch: Batch, inputs: torch.Tensor, **more: Any) -> torch.Tensor:
        """The language model's last states, ``[B, L, D]``."""
        mask = {"full_attention": batch.mask()}
        return self.model.model(
            inputs_embeds=inputs, position_ids=batch.positions, attention_mask=mask, use_cache=False, **more
        ).last_hidden_state

    def losses(self, batch: Batch, answers: bool = True) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Of answers, of what is seen and heard (``dense``), of where it looks (``gaze``); and what is right.

        Without ``answers`` the first layers alone are run.
        """
        self._gaze, self._looks = [], batch.looks if answers else {}
        inputs, tower = self.embed(batch)
        if answers:
            hidden = self.hidden(batch, inputs)
        else:
            with self.first_layers_only():
                self.hidden(batch, inputs)
        assert self._tapped is not None
        tapped = self._tapped.flatten(0, 1)
        numbers = self.model.get_input_embeddings().weight[self._numbers]
        dense, right = self.head.loss(tapped[batch.video_at], tapped[batch.audio_at], tower, batch, numbers)
        found = {"dense": dense}
        if answers:
            logits = self.model.lm_head(hidden.flatten(0, 1)[batch.answers - 1]).float()
            found["answers"] = functional.cross_entropy(logits, batch.targets)
            if self._gaze:
                found["gaze"] = torch.stack(self._gaze).mean()
        return found, right


def by_chunk(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of ``[1, H, S, D]`` within chunks, as flash attention has it, by one call for all of them."""
    starts, lengths = cu_seq_lens_q[:-1].long(), cu_seq_lens_q.diff().long()
    steps = torch.arange(int(max_length_q), device=query.device)
    there = steps < lengths[:, None]
    at = (starts[:, None] + steps).clamp(max=query.shape[2] - 1)
    parts = [one[0][:, at].transpose(0, 1) for one in (query, key, value)]
    found = functional.scaled_dot_product_attention(*parts, attn_mask=there[:, None, None], scale=scaling)
    return found.transpose(1, 2)[there][None], None
