"""V-STaR: what, when and where in 2,094 videos, asked in two chains (arXiv 2503.11495).

Prompts and frames are those of its published inference demo, the rules those of its evaluation code. A sample has five
prompts, ``{sample}/{chain}/{step}``: ``1/what``, ``1/when``, ``1/where``, ``2/where``, ``2/when``; "what" counts in
both chains. None of them depends on another's answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ravst_ray.core.intervals import interval_iou
from ravst_ray.evaluation.benchmarks.answers import commonest, final_answer, percent
from ravst_ray.evaluation.benchmarks.files import read_rows, unique_ids
from ravst_ray.evaluation.benchmarks.judge import RIGHT_FROM, judge_messages, normalised
from ravst_ray.evaluation.benchmarks.protocols import Answer, Benchmark, Question, Scores
from ravst_ray.evaluation.benchmarks.spoken_boxes import read_boxes, trivial_boxes, true_ious
from ravst_ray.evaluation.benchmarks.v_star_prompts import WHAT, VSTaRRow, prompts

CHAINS = ("1", "2")
RECALL_AT = (0.3, 0.5, 0.7)
PRECISION_AT = (0.1, 0.3, 0.5, 0.7, 0.9)
_WHEN = ("m_tIoU", *(f"R1@{k}" for k in RECALL_AT))
_WHERE = ("m_vIoU", *(f"AP@{k}" for k in PRECISION_AT))
_SUMMARY = ("m_tIoU", "m_vIoU", "AM", "LGM", "all three")
_NUMBER = re.compile(r"\b\d+(?:\.\d+)?\b")


class VSTaR(Benchmark):
    """See :class:`~ravst_ray.evaluation.benchmarks.protocols.Benchmark`."""

    name = "v-star"
    title = "V-STaR"
    settings = (
        "prompt.verbatim=true",
        "frames.step_s=1.0",
        "frames.max_frames=768",
        f"frames.total_pixels={20480 * 28 * 28}",
        "sampling.temperature=0",
        "sampling.max_tokens=2048",
    )
    rules = (
        "Acc: the judge's mark from 0 to 3 is at least 2; without a judge, 'what' must agree up to case, punctuation "
        "and articles, which is stricter. exact and normalised need no judge.",
        "When: an answer counts if exactly two numbers stand in it; '2s' is none, '00:02' are two.",
        "Where: only annotated frames count, so boxes at other seconds cost nothing, and of several boxes at a second "
        "the best is taken.",
        "The prompts of the published demo give part of the truth away, and are asked as they are: 'where' of chain 1 "
        "names the true seconds, 'when' of chain 2 the true boxes, 'where' of chain 2 how many. Its stray commas, by "
        "which the prompts of 'when' are tuples, are left out.",
        "this run: a missing answer counts 0, boxes are brought from the model's pixels to the video's, and '2.0' is "
        "the second 2. By the published code samples without 'what' leave all but Acc, boxes stay as they are said, "
        "and seconds must be written alike.",
        "AM is the mean of Acc, m_tIoU and m_vIoU; LGM is -(ln(1 - Acc) + ln(1 - m_tIoU) + ln(1 - m_vIoU)) / 3 of the "
        "averages, 100-fold here; empty where one of them is 100%. mAM and mLGM are the means of both chains.",
        "all three: the share of samples with 'what' right, tIoU from 0.3 and vIoU from 0.1, which the published code "
        "counts too.",
    )
    tables = (
        ("V-STaR", ("mAM", "mLGM", "Acc", *(f"{name} {chain}" for chain in CHAINS for name in _SUMMARY))),
        ("What", ("Acc", "exact", "normalised")),
        ("Chain 1: what, when, where", tuple(f"{name} 1" for name in (*_WHEN, *_WHERE))),
        ("Chain 2: what, where, when", tuple(f"{name} 2" for name in (*_WHEN, *_WHERE))),
    )
    headline = ("mAM", "mLGM", "Acc")

    def read(self, path: str | Path) -> list[Question]:
        """See :meth:`Benchmark.read`."""
        rows = read_rows(path, VSTaRRow, self.title)
        ids = unique_ids(row.vid for row in rows)
        return [
            Question(
                f"{sample}/{step}",
                row.vid,
                step,
                prompt,
                _truth(row, step),
                row.duration_s,
                {"domain": row.domain, "length": _length(row.duration_s)},
                row,
            )
            for sample, row in zip(ids, rows, strict=True)
            for step, prompt in prompts(row).items()
        ]

    def score(self, question: Question, answer: Answer, official: bool) -> dict[str, float]:
        """What: ``Acc``, ``exact``, ``normalised``; when: ``m_tIoU``, ``R1@k``; where: ``m_vIoU``, ``AP@k``."""
        row: VSTaRRow = question.row
        said = final_answer(answer.text)
        if question.kind == WHAT:
            alike = bool(said) and normalised(said) == normalised(row.answer)
            right = alike if answer.verdict is None else answer.verdict >= RIGHT_FROM
            return {"Acc": float(right), "exact": float(said == row.answer.strip()), "normalised": float(alike)}
        if question.kind.endswith("when"):
            told = _interval(said)
            iou = interval_iou(row.timestamps, told) if told else 0.0
            return {"m_tIoU": iou, **{f"R1@{k}": float(iou >= k) for k in RECALL_AT}}
        ious = true_ious(row.bboxes, read_boxes(said), (1.0, 1.0) if official else answer.box_scale, exact=official)
        values = {"m_vIoU": sum(ious) / len(ious) if ious else 0.0}
        return values | {f"AP@{k}": sum(iou >= k for iou in ious) / len(ious) if ious else 0.0 for k in PRECISION_AT}

    def summarise(self, questions: Sequence[Question], scores: Scores, official: bool) -> dict[str, float | None]:
        """``official``: samples without an answer to "what" leave the averages, but stay in those of "what"."""
        samples = [question.qa_id.removesuffix(f"/{WHAT}") for question in questions if question.kind == WHAT]
        kept = [one for one in samples if not official or f"{one}/{WHAT}" in scores]

        def values(step: str, metric: str, among: Sequence[str] = kept) -> list[float]:
            return [scores.get(f"{sample}/{step}", {}).get(metric, 0.0) for sample in among]

        found = {name: percent(values(WHAT, name, samples)) for name in ("Acc", "exact", "normalised")}
        for chain in CHAINS:
            found |= {f"{name} {chain}": percent(values(f"{chain}/when", name)) for name in _WHEN}
            found |= {f"{name} {chain}": percent(values(f"{chain}/where", name)) for name in _WHERE}
            three = [found["Acc"], found[f"m_tIoU {chain}"], found[f"m_vIoU {chain}"]]
            found[f"AM {chain}"], found[f"LGM {chain}"] = arithmetic_mean(three), logarithmic_mean(three)
            steps = ((WHAT, "Acc"), (f"{chain}/when", "m_tIoU"), (f"{chain}/where", "m_vIoU"))
            parts = zip(*(values(step, metric) for step, metric in steps), strict=True)
            right = sum(what > 0 and when >= 0.3 and where >= 0.1 for what, when, where in parts)
            found[f"all three {chain}"] = percent([right / len(samples)]) if samples else None
        for name in ("AM", "LGM"):
            found[f"m{name}"] = arithmetic_mean([found[f"{name} {chain}"] for chain in CHAINS])
        return found

    def trivial(self, questions: Sequence[Question]) -> dict[str, dict[str, str]]:
        """See :meth:`Benchmark.trivial`."""
        what = commonest(question.row.answer for question in questions)
        rows: dict[str, dict[str, str]] = {}
        for name, margin in (("a centre box", 0.25), ("the whole frame", 0.0)):
            told: dict[str, str] = {}
            for question in questions:
                row: VSTaRRow = question.row
                if question.kind == WHAT:
                    told[question.qa_id] = what
                elif question.kind.endswith("when"):
                    told[question.qa_id] = f"[0.0, {row.duration_s}]"
                else:
                    told[question.qa_id] = trivial_boxes(row.width, row.height, row.duration_s, margin)
            rows[f"the commonest answer, the whole video, {name}"] = told
        return rows

    def judged(self, question: Question, answer: str) -> list[dict[str, Any]] | None:
        """See :meth:`Benchmark.judged`."""
        said = final_answer(answer)
        return judge_messages(question.row.question, question.truth, said) if question.kind == WHAT and said else None


def arithmetic_mean(shares: Sequence[float | None]) -> float | None:
    """AM of percents; None where one is missing."""
    known = [share for share in shares if share is not None]
    return round(sum(known) / len(known), 4) if known and len(known) == len(shares) else None


def logarithmic_mean(shares: Sequence[float | None]) -> float | None:
    """LGM of percents, 100-fold; None where one is missing, or is 100, at which it is infinite.

    Example:
        >>> logarithmic_mean([50.0, 50.0, 50.0])
        69.3147
    """
    known = [share for share in shares if share is not None and share < 100]
    if not known or len(known) != len(shares):
        return None
    return round(-100 * sum(math.log(1 - share / 100) for share in known) / len(known), 4)


def _interval(said: str) -> tuple[float, float] | None:
    """The two numbers of an answer, by the demo's rule; None for fewer or more."""
    found = _NUMBER.findall(said)
    return (float(found[0]), float(found[1])) if len(found) == 2 else None


def _length(duration_s: float) -> str:
    return "short (< 60 s)" if duration_s < 60 else "medium (< 180 s)" if duration_s < 180 else "long"


def _truth(row: VSTaRRow, step: str) -> str:
    if step == WHAT:
        return row.answer
    return str(list(row.timestamps)) if step.endswith("when") else str([box.xyxy_px for box in row.bboxes])
