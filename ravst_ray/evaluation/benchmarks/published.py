"""Published rows, in percent, as their sources state them; what a source doesn't say is left out.

Where a source calls "overall" the mean of the tasks, it stands under ``macro`` here (STI-Bench), and the mean over the
questions that follows from its own values and the counts of questions under ``micro``.
"""

from __future__ import annotations

from ravst_ray.evaluation.benchmarks.protocols import Published
from ravst_ray.evaluation.benchmarks.sti_bench import KINDS
from ravst_ray.evaluation.benchmarks.vsi_bench import DIRECTIONS, EIGHT

_LEADERBOARD = "VSI-Bench's leaderboard, vision-x-nyu.github.io/thinking-in-space.github.io"
_SPATIAL_R1 = "README of OuyangKun10/Spatial-R1 (now SpaceR), April 2025"
_EASI = "docs/Benchmark_Verification.md of the EASI repository"
_SPACER = "arXiv 2504.01805 (SpaceR)"
_VIDEO_STR = "arXiv 2510.10976 (Video-STR)"
_VLMEVALKIT = "pull request 1342 of open-compass/VLMEvalKit"
_MICRO = "Its overall is macro; micro follows from its values and the counts of questions."
_WHICH = "Which mean it is isn't stated."
_OPEN_O3 = "README of marinero4972/Open-o3-Video, November 2025"


def _vsi(overall: float, *eight: float) -> dict[str, float]:
    return {"overall": overall, **dict(zip(EIGHT, eight, strict=True))}


def _sti(micro: float, macro: float, *kinds: float) -> dict[str, float]:
    return {"micro": micro, "macro": macro, **dict(zip(KINDS, kinds, strict=True))}


def _easi(harness: str, overall: float) -> Published:
    return Published("Qwen2.5-VL-7B", f"128 frames, {harness}", _EASI, {"overall": overall})


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "vsi-bench": (
        Published("Human", "", _LEADERBOARD, _vsi(79.2, 94.3, 47.0, 60.4, 45.9, 94.7, 95.8, 95.8, 100.0)),
        Published(
            "The commonest answer",
            "theirs",
            _LEADERBOARD,
            _vsi(34.0, 62.1, 32.0, 29.9, 33.1, 25.1, 47.9, 28.4, 25.2),
            "Its overall isn't the mean of its tasks, which is 35.5.",
        ),
        Published(
            "GPT-4o",
            "16 frames",
            _LEADERBOARD,
            _vsi(34.0, 46.2, 5.3, 43.8, 38.2, 37.0, 41.3, 31.5, 28.5),
        ),
        Published(
            "LLaVA-Video-72B",
            "32 frames",
            _LEADERBOARD,
            _vsi(40.9, 48.9, 22.8, 57.4, 35.3, 42.4, 36.7, 35.0, 48.6),
        ),
        Published(
            "LLaVA-Video-7B",
            "32 frames",
            _LEADERBOARD,
            _vsi(35.6, 48.5, 14.0, 47.8, 24.2, 43.5, 42.4, 34.0, 30.6),
        ),
        Published(
            "Qwen2.5-VL-7B",
            "SpaceR's code",
            _SPATIAL_R1,
            _vsi(34.43, 33.96, 17.48, 51.85, 36.60, 35.77, 37.73, 29.38, 32.69),
        ),
        Published(
            "Qwen2.5-VL-7B, thinking",
            "SpaceR's code",
            _SPATIAL_R1,
            _vsi(25.35, 15.84, 12.10, 19.12, 24.24, 31.83, 34.68, 34.54, 30.42),
        ),
        Published(
            "Qwen2.5-VL-7B",
            "64 frames, VLMEvalKit",
            _VLMEVALKIT,
            _vsi(32.47, 24.44, 21.98, 42.40, 26.81, 36.62, 40.68, 27.84, 27.02)
            | dict(zip(DIRECTIONS, (48.39, 46.03, 27.61), strict=True)),
            "Relative direction is the mean of its levels; its overall isn't the mean of the tasks, which is 31.0.",
        ),
        _easi("its own code", 33.50),
        _easi("VLMEvalKit", 33.70),
        _easi("lmms-eval", 38.67),
        Published(
            "Spatial-R1, step 1500",
            "SpaceR's code",
            _SPATIAL_R1,
            _vsi(46.15, 63.24, 29.78, 60.76, 45.07, 39.15, 45.02, 28.87, 57.28),
        ),
        Published("Video-STR's base", "", _VIDEO_STR, {"overall": 33.0}),
        Published("Video-STR", "", _VIDEO_STR, {"overall": 46.5}),
    ),
    "sti-bench": (
        Published(
            "Qwen2.5-VL-7B",
            "SpaceR's code",
            _SPATIAL_R1,
            _sti(34.35, 36.07, 21.45, 44.52, 33.75, 23.74, 31.71, 35.14, 47.44, 50.83),
            _MICRO,
        ),
        Published(
            "Spatial-R1, step 1500",
            "SpaceR's code",
            _SPATIAL_R1,
            _sti(35.08, 37.04, 30.10, 51.37, 20.82, 34.36, 34.44, 37.30, 44.87, 43.06),
            _MICRO,
        ),
        Published("SpaceR-7B", "32 frames, SpaceR's code", _SPACER, {"micro": 37.0, "macro": 39.05}),
        Published("Qwen2.5-VL-72B", "30 frames", f"arXiv 2503.23765, as quoted in {_EASI}", {"micro": 40.7}, _WHICH),
        Published("Qwen2.5-VL-72B", "30 frames, VLMEvalKit", _EASI, {"micro": 42.1}, _WHICH),
    ),
    "v-star": (Published("Open-o3 Video on Qwen3-VL-8B", "", _OPEN_O3, {"mAM": 35.5, "mLGM": 49.0}),),
}
"""By the benchmark's name."""
