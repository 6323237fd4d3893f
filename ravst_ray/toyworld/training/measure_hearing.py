"""Does the toy policy that hears make use of it? Its answers with the video's own sound, with silence, with another's.

    python -m ravst_ray.toyworld.training.measure_hearing --scenes 60

The scenes are unseen ones without cues in their pictures. An interval of a difference is from resampling pairs of
answers to the same question (:mod:`ravst_ray.evaluation.paired`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ravst_ray.evaluation.paired import paired_interval
from ravst_ray.policy.families.protocols import Family
from ravst_ray.policy.families.qwen2_5_omni import Qwen25Omni
from ravst_ray.tasks.rubric import Rubric
from ravst_ray.toyworld.training.policy_annotators import CARELESS_SHARE, LARGER, LONGER
from ravst_ray.toyworld.training.policy_measure import greedy_answers
from ravst_ray.toyworld.training.policy_omni import HEARING
from ravst_ray.toyworld.training.policy_pool import Painted, paint

SEED = 7_799
SOUNDS = ("own", "silence", "another's")
PARTS = (
    ("AVTR", "temporal"),
    ("AVSR", "object"),
    ("AVSR", "spatial"),
    ("AVSTR", "temporal"),
    ("AVSTR", "spatial"),
)


@dataclass(frozen=True)
class Heard:
    """Scores of the same questions with each of ``SOUNDS``: ``values [Q, 3]``, those of a task and a reward's part."""

    task: str
    part: str
    values: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """Over the questions, by sound."""
        return self.values.mean(0)

    def gain(self, over: int) -> tuple[float, float, float]:
        """By how much the own sound is better than ``SOUNDS[over]``, and the ends of its 95% interval."""
        differences = self.values[:, 0] - self.values[:, over]
        return (float(differences.mean()), *paired_interval(differences))


def with_sound(scenes: Sequence[Painted], sound: str) -> list[Painted]:
    """Scenes with one of ``SOUNDS``; another's is the next scene's, cut or with silence behind it."""
    if sound == "own":
        return list(scenes)
    given = []
    for place, scene in enumerate(scenes):
        own = scene.clip.sound
        assert own is not None
        heard = np.zeros_like(own)
        if sound != "silence":
            other = scenes[(place + 1) % len(scenes)].clip.sound
            assert other is not None
            count = min(len(own), len(other))
            heard[:count] = other[:count]
        given.append(replace(scene, clip=replace(scene.clip, sound=heard)))
    return given


def hear(model: Any, processor: Any, family: Family, scenes: Sequence[Painted]) -> tuple[list[Heard], float]:
    """Scores with each sound, of each of ``PARTS``; and the share of well-formed answers with the own sound."""
    rubric, found = Rubric(), []
    for sound in SOUNDS:
        pairs = [(scene, question) for scene in with_sound(scenes, sound) for question in scene.questions]
        said = greedy_answers(model, processor, family, pairs)
        found.append(
            [
                rubric.score(question.task, answer, question.answer).parts
                for (_, question), answer in zip(pairs, said, strict=True)
            ]
        )
    tasks = [question.task for scene in scenes for question in scene.questions]
    heard = []
    for task, part in PARTS:
        asked = [place for place, own in enumerate(tasks) if own == task]
        heard.append(Heard(task, part, np.array([[one[place][part] for one in found] for place in asked])))
    return heard, float(np.mean([parts["format"] for parts in found[0]]))


def table(found: Sequence[Heard]) -> str:
    """Scores in percent, as Markdown."""
    lines = [
        "| reward part | questions | own sound | silence | another's sound | own - silence | own - another's |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        means = " | ".join(f"{100 * mean:.1f}" for mean in one.means)
        gains = " | ".join("{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * x for x in one.gain(over))) for over in (1, 2))
        lines.append(f"| {one.task}/{one.part} | {len(one.values)} | {means} | {gains} |")
    return "\n".join(lines)


def hearing_card(found: Sequence[Heard], share: float, history: Sequence[str], parameters: int, scenes: int) -> str:
    """What the model is, how it was made, and what it makes of its sound."""
    training = ", then\n  ".join(history)
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
---
# qwen2_5_omni-tiny-toy

The thinker of Qwen2.5-Omni (transformers' `Qwen2_5OmniThinkerForConditionalGeneration`) with
{parameters / 1e6:.2f} M parameters and a tokenizer of its own, trained from scratch on scenes of the toy world in which
nothing but the sound tells what sounds, and when (`ravst toyworld --no-cues`). It stands in for
`Qwen/Qwen2.5-Omni-7B` in the demo and in the tests, and is loaded by the same code. It keeps the answer grammar and
errs on purpose: reinforcement learning begins here. It knows no other world, and no other prompt than
`PromptConfig(box_step_s=4.0, state_grammar=False)` on frames of 112 x 112 pixels, one a second, with sound.

- **Data**: random toy scenes without cues, frames JPEG-roughened and blurred, noise of -80 to -55 dBFS under half of
  the sounds; every question that annotation would ask.
- **Training**: {training};
  one of the annotators (asked {CARELESS_SHARE:.0%} of the time) makes intervals {LONGER} times as long as they are and
  boxes {LARGER} times as wide and high, and, asked what there is, names the first object alone and without its
  colour: `python -m ravst_ray.toyworld.training.train_hearing`
- **Accuracy** of greedy answers about {scenes} unseen scenes, in percent, with 95% intervals of paired differences
  (`python -m ravst_ray.toyworld.training.measure_hearing`); {share:.1%} of the answers are well-formed:

{table(found)}

Temporal parts are mean interval IoU; another's sound is that of another scene, which mostly has other sources.
"""


if __name__ == "__main__":
    from transformers import AutoProcessor

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HEARING)
    parser.add_argument("--scenes", type=int, default=60)
    args = parser.parse_args()
    family = Qwen25Omni()
    policy = family.learner().load(str(args.model), torch.float32).eval()
    unseen = [paint(SEED, index, heard=True) for index in range(args.scenes)]
    rows, share = hear(policy, AutoProcessor.from_pretrained(args.model), family, unseen)
    sys.stdout.write(f"{table(rows)}\n\nwell-formed: {share:.3f}\n")
