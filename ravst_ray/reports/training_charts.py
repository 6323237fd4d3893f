"""The charts of a training run, from its numbers by key and step; what wasn't logged gives no chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ravst_ray.config.train import TrainConfig
from ravst_ray.reports.completions import task_weights
from ravst_ray.reports.curves import COLORS, INK, Chart, Series, chart
from ravst_ray.reports.run_folder import in_order
from ravst_ray.tasks import TASKS, part_names

ByKey = Mapping[str, Mapping[int, float]]
HELD_OUT = "held-out questions"
PHASES = (
    "waiting for rollouts",
    "forward and backward",
    "weights to the engines",
    HELD_OUT,
    "optimizer, probe, files",
)
_TASK_COLORS: dict[str, str] = dict(zip(TASKS, COLORS, strict=False))


def reward_charts(by_key: ByKey, steps: Sequence[int], config: TrainConfig | None) -> list[Chart]:
    """The mean, then each part, both also by task; a part that some tasks don't have or count is drawn for others."""
    tasks = in_order((key.partition("/")[0] for key in by_key if "/reward/" in key), list(TASKS))
    names = in_order((key.partition("/")[2] for key in by_key if key.startswith("reward/")), ("mean", *part_names()))
    found = []
    for name in names:
        having = [task for task in tasks if f"{task}/reward/{name}" in by_key]
        counted = [task for task in having if name == "mean" or task_weights(config, task).get(name, 1.0) > 0]
        series = [Series(task, by_key[f"{task}/reward/{name}"], _TASK_COLORS.get(task, COLORS[3])) for task in counted]
        if counted == having and (len(having) != 1 or len(tasks) == 1):
            series.insert(0, Series("all", by_key[f"reward/{name}"], INK))
        others = [task for task in having if task not in counted]
        left_out = f"{' and '.join(others)} {'does' if len(others) == 1 else 'do'} not count it"
        hint = "mean over the completions of a step"
        if name != "mean":
            hint = "part in 0–1, before weighing" + (f"; {left_out}" if others else "")
        found.append(chart("Reward" if name == "mean" else name.capitalize(), series, steps, hint=hint))
    return _there(found)


def sampling_charts(by_key: ByKey, steps: Sequence[int]) -> list[Chart]:
    """Lengths, what can't be learned from, staleness."""
    wasted = {"cut off at the token limit": "completion/truncated", "groups of equal rewards": "group/zero_variance"}
    hints = (
        "shares of completions and of groups",
        "standard deviation of a group's rewards",
        "updates between the weights that sampled and those that learn",
    )
    lengths = {"mean": "completion/tokens", "longest": "completion/longest"}
    return _there(
        [
            chart("Completion length", _series(by_key, lengths), steps, hint="tokens"),
            chart("Nothing to learn from", _series(by_key, wasted), steps, "share", hints[0]),
            chart("Spread within groups", _series(by_key, {"spread": "group/std"}), steps, hint=hints[1]),
            chart("Staleness", _series(by_key, {"updates": "staleness/mean"}), steps, hint=hints[2]),
        ]
    )


def update_charts(by_key: ByKey, steps: Sequence[int]) -> list[Chart]:
    """How far steps move the policy, and how well learner and engine agree."""
    clips = {
        "any": "clip_ratio/region_mean",
        "from below": "clip_ratio/low_mean",
        "from above": "clip_ratio/high_mean",
    }
    ratios = {"mean": "importance/ratio_mean", "largest": "importance/ratio_max"}
    limits = by_key.get("sync/gap_limit")
    limit = f"; the run stops at {min(limits.values()):.3g}" if limits else ""
    hints = (
        f"median |learner − engine| on a probe{limit}",
        "mean |learner − sampler|, staleness included",
        "probability of a token, learner / sampler, before the cap",
    )
    probe, learned = {"probe": "sync/logprob_gap"}, {"completions": "importance/gap_mean"}
    return _there(
        [
            chart("KL divergence", _series(by_key, {"KL": "kl"}), steps, hint="from the start model"),
            chart("Clipped", _series(by_key, clips), steps, "share", "share of the tokens whose ratio is cut"),
            chart("Log-prob gap after sync", _series(by_key, probe), steps, hint=hints[0]),
            chart("Log-prob gap of what is learned", _series(by_key, learned), steps, hint=hints[1]),
            chart("Importance ratio", _series(by_key, ratios), steps, hint=hints[2]),
            chart("Loss", _series(by_key, {"loss": "loss"}), steps),
            chart("Norm of the gradient", _series(by_key, {"norm": "grad_norm"}), steps, hint="before clipping"),
            chart("Entropy", _series(by_key, {"entropy": "entropy"}), steps, hint="nats a token"),
        ]
    )


def time_charts(by_key: ByKey, steps: Sequence[int]) -> list[Chart]:
    """Seconds and busy shares."""
    colors = (COLORS[4], *COLORS)
    phases = [
        Series(phase, values, color)
        for (phase, values), color in zip(phase_seconds(by_key).items(), colors, strict=False)
    ]
    busy = {"actors": "rollout/busy_share", "learner": "learner/busy_share"}
    hints = (
        "of the learner, one phase after the other",
        "of the time: actors sample, the learner doesn't wait",
        "of the actors; beside the learner where staleness is allowed",
    )
    return _there(
        [
            chart("Seconds of a step", phases, steps, "s", hints[0]),
            chart("Busy", _series(by_key, busy), steps, "share", hints[1]),
            chart("Sampling", _series(by_key, {"a step": "rollout/seconds"}), steps, "s", hints[2]),
        ]
    )


def phase_seconds(by_key: ByKey) -> dict[str, dict[int, float]]:
    """Seconds of the learner by phase and step; they add up to the seconds of the step."""
    found: dict[str, dict[int, float]] = {phase: {} for phase in PHASES}
    for step, whole in by_key.get("seconds/step", {}).items():
        names = ("waiting", "sync", "validation")
        waiting, sync, asking = (by_key.get(f"seconds/{name}", {}).get(step, 0.0) for name in names)
        # TRL's time of a step holds the waiting for its groups, not what comes after the last backward.
        learning = max(by_key.get("step_time", {}).get(step, waiting) - waiting, 0.0)
        rest = max(whole - waiting - learning - sync - asking, 0.0)
        for phase, seconds in zip(PHASES, (waiting, learning, sync, asking, rest), strict=True):
            found[phase][step] = seconds
    if not any(found[HELD_OUT].values()):  # most runs ask none
        del found[HELD_OUT]
    return found


def _series(by_key: ByKey, keys: Mapping[str, str]) -> list[Series]:
    """Series of the keys by label; the first of three in the colour of text."""
    colors = (INK, *COLORS) if len(keys) > 2 else COLORS
    return [Series(label, by_key.get(key, {}), colors[place]) for place, (label, key) in enumerate(keys.items())]


def _there(charts: Sequence[Chart | None]) -> list[Chart]:
    return [one for one in charts if one is not None]
