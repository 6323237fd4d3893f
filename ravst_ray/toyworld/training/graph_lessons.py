"""Lessons for the toy policy that writes graphs: questions about painted scenes, and their losses in batches.

A scene is one line of a batch: its frames once, then several questions with their answers, which don't see each other.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile, zip_longest
from typing import Any

import numpy as np
import torch

from ravst_ray.policy.families.qwen2_5_vl import Qwen25VL
from ravst_ray.policy.prompts import question_prompt
from ravst_ray.records import VideoView
from ravst_ray.tasks.video_str import VIDEO_STR
from ravst_ray.toyworld.scene import NAMES, random_scene
from ravst_ray.toyworld.training.policy import SIDE_PX
from ravst_ray.toyworld.training.policy_gaze import WHEN, WHERE
from ravst_ray.toyworld.training.policy_graph import SHARES, Drawer, Look
from ravst_ray.toyworld.training.policy_pool import ASKED, Painted
from ravst_ray.toyworld.training.policy_targets import Targets, scene_targets
from ravst_ray.training.forward import Row, VideoForward

_FRAME = re.compile(r'\{"t":([\d.]+),"nodes":\[((?:\{[^{}]*\},?)*)\]')
_NODE = re.compile(r'"id":"([^"]+)\.\d+","pos":\[([\d.]+),([\d.]+)\]')
ANSWER_WEIGHT = 8.0
WORD_WEIGHT = 4.0
"""Of an answer's tokens together, and of each between graph and answer, where any other token of a reply weighs 1."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Asked:
    """A question as it is put, and its true reply; ``about`` is the object asked for a box or an interval, if one."""

    kind: str
    text: str
    reply: str
    about: str = ""
    time_s: float = 0.0


@dataclass(frozen=True)
class Mention:
    """Tokens of a reply that begin a number, by the heads that should look, and the object and second of it."""

    at: tuple[int, int]
    token: int
    name: int
    time_s: float


@dataclass(frozen=True)
class Told:
    """A question and a reply as tokens; ``weights`` of the reply's in the loss."""

    prompt: list[int]
    reply: list[int]
    weights: list[float]
    mentions: list[Mention]


def mentions(pieces: Sequence[str], asked: Asked) -> Iterator[Mention]:
    """The numbers of a true reply: positions of its graph, and those of a box or an interval."""
    starts, whole = [], ""
    for piece in pieces:
        starts.append(len(whole))
        whole += piece
    for frame in _FRAME.finditer(whole):
        for node in _NODE.finditer(frame.group(2)):
            for number in (2, 3):
                token = bisect_left(starts, frame.start(2) + node.start(number))
                yield Mention(WHERE, token, 1 + NAMES.index(node.group(1)), float(frame.group(1)))
    if asked.about:
        said = whole.index("<answer>")
        for found in _NUMBER.finditer(whole, said):
            token, name = bisect_left(starts, found.start()), 1 + NAMES.index(asked.about)
            if asked.kind == "localization":
                yield Mention(WHERE, token, name, asked.time_s)
            elif asked.kind == "temporal_localization":
                yield Mention(WHEN, token, name, float(found.group()))


def _seen_at(mention: Mention, targets: Targets, view: VideoView) -> tuple[int, ...]:
    """The video tokens to look at, of the grid that the second belongs to."""
    step = mention.time_s / view.step_s
    frame = math.ceil(step - 1e-6) if mention.at == WHEN else round(step)
    there = (targets.times == min(frame, view.frames - 1) // 2) & (targets.names == mention.name).any(1)
    return tuple(there.nonzero()[:, 0].tolist())


class Lessons:
    """Batches from a pool of scenes, and their losses.

    Args:
        drawer: the model with its helps.
        processor: the model's.
        seed: of the scenes' world.
        scenes: by their index in it.
        asked: questions about each.
        rng: what comes next.
    """

    def __init__(
        self,
        drawer: Drawer,
        processor: Any,
        seed: int,
        scenes: dict[int, Painted],
        asked: Mapping[int, Sequence[Asked]],
        rng: np.random.Generator,
    ):
        self.drawer, self.seed, self.scenes, self.asked, self.rng = drawer, seed, scenes, asked, rng
        self.forward = VideoForward(processor, Qwen25VL(), banned=False, features_gib=10.0)
        self.tokenizer = processor.tokenizer
        ids = self.tokenizer.convert_tokens_to_ids
        self._numbers, self._shares = ids([str(number) for number in range(SIDE_PX + 1)]), ids(list(SHARES))
        self._tags = ids(["</graph>", "</think>", "<answer>", "</answer>"])
        self._targets: dict[int, Targets] = {}
        self._told: dict[tuple[int, int, bool], Told] = {}
        self.by_length = sorted(scenes, key=lambda index: scenes[index].view.frames)

    def losses(self, clips: int, each: int) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """Of replies' tokens, of what the video's tokens know (``dense``), of where heads look (``gaze``)."""
        middle = int(self.rng.integers(len(self.by_length)))
        near = self.by_length[max(middle - 150, 0) : middle + 150]
        places = [int(index) for index in self.rng.choice(near, clips, replace=False)]
        chosen = [self.some(self.asked[index], each) for index in places]
        made = [[self.told(index, number) for number in numbers] for index, numbers in zip(places, chosen, strict=True)]
        groups, weights = [], []
        for index, line in zip(places, made, strict=True):
            shared, clip = _in_common([told.prompt for told in line]), self.scenes[index].clip
            groups.append([Row(told.prompt[:shared], told.prompt[shared:] + told.reply, clip) for told in line])
            weights += [[0.0] * (len(told.prompt) - shared) + told.weights for told in line]
        before = max(len(group[0].prompt_ids) for group in groups)
        self.drawer.looks, self.drawer.missed = list(self._looks(places, made, groups, before)), []
        logps = self.forward.score(self.drawer.model, [row for group in groups for row in group]).logps
        weight = torch.tensor([row + [0.0] * (logps.shape[1] - len(row)) for row in weights])
        assert self.drawer.tapped is not None
        hidden = []
        for number, group in enumerate(groups):
            first, count = self._video(group[0].prompt_ids, before)
            hidden.append(self.drawer.tapped[number, first : first + count])
        tokens = self.drawer.model.get_input_embeddings().weight
        targets = Targets.join([self.targets(index) for index in places])
        dense, right = self.drawer.head.loss(torch.cat(hidden), targets, tokens[self._numbers], tokens[self._shares])
        gaze = torch.stack(self.drawer.missed).mean() if self.drawer.missed else torch.zeros(())
        self.drawer.looks = ()
        letters = (weight == ANSWER_WEIGHT).float()  # and numbers of one token
        right["letters"] = float(-(logps.detach() * letters).sum() / letters.sum())
        return {"replies": -(logps * weight).sum() / weight.sum(), "dense": dense, "gaze": gaze}, right

    def reading(self, rows: int) -> torch.Tensor:
        """The loss of what follows a true graph, without the video: what can be read off it is learned soon."""
        told: list[Told] = []
        while len(told) < rows:
            index = self.by_length[int(self.rng.integers(len(self.by_length)))]
            choices = [place for place, one in enumerate(self.asked[index]) if self._is_choice(one)]
            told += [self.told(index, int(place), shown=False) for place in self.rng.permutation(choices)[:6]]
        logps = self.forward.score(self.drawer.model, [Row(one.prompt, one.reply) for one in told]).logps
        weight = torch.zeros_like(logps)
        for row, one in enumerate(told):
            first = one.reply.index(self._tags[0]) + 1
            weight[row, first : len(one.reply)] = torch.tensor(one.weights[first:])
        return -(logps * weight).sum() / weight.sum()

    @staticmethod
    def _is_choice(asked: Asked) -> bool:
        return "\nAnswer with the letter." in asked.text

    def some(self, asked: Sequence[Asked], count: int) -> list[int]:
        """Places of questions, kinds in turn."""
        kinds: dict[str, list[int]] = {}
        for place in self.rng.permutation(len(asked)).tolist():
            kinds.setdefault(asked[place].kind, []).append(place)
        turns = [place for turn in zip_longest(*kinds.values()) for place in turn if place is not None]
        return turns[:count]

    def _looks(
        self, places: Sequence[int], made: Sequence[Any], groups: Sequence[Sequence[Row]], before: int
    ) -> Iterator[Look]:
        for number, (index, line, group) in enumerate(zip(places, made, groups, strict=True)):
            first, own = self._video(group[0].prompt_ids, before)[0], before
            shared = len(group[0].prompt_ids)
            for told, row in zip(line, group, strict=True):
                for one in told.mentions:
                    video = _seen_at(one, self.targets(index), self.scenes[index].view)
                    if video:
                        column = own + len(told.prompt) - shared + one.token - 1
                        there = tuple(first + place for place in video)
                        yield Look(one.at, number, before - shared, before, own, column, there)
                own += len(row.completion_ids)

    def _video(self, prompt: Sequence[int], before: int) -> tuple[int, int]:
        """The column of a line's first video token, and how many there are."""
        token = self.drawer.model.config.video_token_id
        return before - len(prompt) + list(prompt).index(token), list(prompt).count(token)

    def told(self, index: int, number: int, shown: bool = True) -> Told:
        """A question and the reply to imitate, as tokens; not ``shown``: without the video."""
        if (index, number, shown) not in self._told:
            scene, asked = self.scenes[index], self.asked[index][number]
            prompt = self.forward.prompt_ids(question_text(asked.text, scene.view), scene.clip if shown else None)
            reply = [*self.tokenizer(asked.reply)["input_ids"], self.tokenizer.eos_token_id]
            weights = [1.0] * len(reply)
            graph, thought, start, end = (reply.index(tag) for tag in self._tags)
            weights[graph + 1 : thought] = [WORD_WEIGHT] * (thought - graph - 1)
            weights[start + 1 : end] = [ANSWER_WEIGHT / (end - start - 1)] * (end - start - 1)
            pieces = [self.tokenizer.decode([token]) for token in reply[:-1]]
            self._told[index, number, shown] = Told(prompt, reply, weights, list(mentions(pieces, asked)))
        return self._told[index, number, shown]

    def targets(self, index: int) -> Targets:
        """What the video tokens of a scene should know."""
        if index not in self._targets:
            scene = random_scene(np.random.default_rng([self.seed, index]))
            self._targets[index] = scene_targets(scene, self.scenes[index].view)
        return self._targets[index]


def _in_common(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts share; each keeps one of its own."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in columns), min(map(len, prompts)) - 1)


def question_text(text: str, view: VideoView) -> str:
    """What stands beside the frames."""
    return question_prompt(VIDEO_STR.name, text, view, ASKED)
