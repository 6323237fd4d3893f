"""Who may import whom: read from the source, and, where it costs start-up time, from a fresh interpreter."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ravst_ray.tasks import TASKS

ROOT = Path(__file__).parents[1]
LEVELS = {
    "ravst_ray": 0,  # the package itself: its version
    "ravst_ray.records": 0,
    "ravst_ray.errors": 0,
    "ravst_ray.logs": 0,
    "ravst_ray.progress": 0,
    "ravst_ray.config": 1,
    "ravst_ray.surroundings": 1,
    "ravst_ray.core": 1,
    "ravst_ray.rewards": 2,
    "ravst_ray.tasks": 3,
    "ravst_ray.datasets": 4,
    "ravst_ray.media": 4,
    "ravst_ray.models": 4.5,  # its models may be at any of the places that datasets knows
    "ravst_ray.cluster": 4,
    "ravst_ray.grounding": 5,
    "ravst_ray.language": 5,
    "ravst_ray.policy": 5,
    "ravst_ray.annotate": 6,
    "ravst_ray.training": 6,
    "ravst_ray.evaluation": 6,
    "ravst_ray.reports": 6,
    **{f"ravst_ray.reports.{name}": 5 for name in ("page", "figures", "curves", "plots")},  # what all pages share
    "ravst_ray.questions": 6,
    "ravst_ray.toyworld": 6,
    "ravst_ray.annotate.workers": 7,
    "ravst_ray.annotate.pipeline": 7,
    "ravst_ray.annotate.run": 7,
    "ravst_ray.training.loop": 7,
    "ravst_ray.training.worker": 7,
    "ravst_ray.training.sft_run": 7,
    "ravst_ray.training.validation": 7,
    "ravst_ray.training.export": 7,
    "ravst_ray.review": 7,  # what follows from a verdict is made by the code of annotate
    "ravst_ray.questions.stream": 7,
    "ravst_ray.questions.run": 7,
    "ravst_ray.toyworld.questions": 7,
    "ravst_ray.toyworld.world": 7,
    "ravst_ray.toyworld.training": 7,  # scripts that train the tiny checkpoints
    "ravst_ray.cli": 8,
    "ravst_ray.cli_help": 0,
    "jobs": 9,  # the top: some only hand over to the command line
}
MAY_IMPORT_RAY = {
    "ravst_ray.annotate.workers",
    "ravst_ray.annotate.pipeline",
    *(
        f"ravst_ray.cluster.{name}" for name in ("start", "failures", "pools", "metrics", "tail", "nodes")
    ),  # all share it
    # Of training: what starts and calls actors, moves weights and clips by reference, and wires the whole.
    *(
        f"ravst_ray.training.{name}"
        for name in (
            "pool",
            "member",
            "clips",
            "placement",
            "transport",
            "checkpoints",
            "sft_examples",
            "sft_run",
            "loop",
            "worker",
        )
    ),
    "ravst_ray.evaluation.predict",
    "ravst_ray.questions.stream",
    "ravst_ray.cli",
    "jobs",
}
HEAVY = {"torch", "ray", "vllm", "transformers"}
LIGHT_ROOMS = ("ravst_ray.config", "ravst_ray.core", "ravst_ray.rewards", "ravst_ray.tasks", "ravst_ray.review")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for room in ("ravst_ray", "jobs") for path in sorted((ROOT / room).rglob("*.py"))}


def imported_by(source: str, known: set[str]) -> Iterator[str]:
    """Full names of the modules that a source imports, anywhere in it; a relative import is named ``.``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or not node.module:
                yield "."
                continue
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else node.module for name in inside)


@cache
def imports(module: str) -> frozenset[str]:
    return frozenset(imported_by(MODULES[module].read_text(encoding="utf-8"), set(MODULES)))


def level_key(module: str) -> str:
    """The longest entry of ``LEVELS`` that the module is or lies in; a new room must be entered there."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        key = ".".join(parts[:length])
        if key in LEVELS and (key != "ravst_ray" or length == len(parts)):
            return key
    raise KeyError(f"{module} lies in no room that LEVELS knows")


def room(module: str) -> str:
    return ".".join(module.split(".")[:2]) if module.startswith("ravst_ray") else "jobs"


def is_ours(name: str) -> bool:
    return name.partition(".")[0] in ("ravst_ray", "jobs")


def may_import(importer: str, imported: str) -> bool:
    above, below = LEVELS[level_key(importer)], LEVELS[level_key(imported)]
    return below <= above if room(importer) == room(imported) else below < above


def roots(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imports(module)}


def test_the_rules_themselves_tell_good_from_bad():
    assert may_import("ravst_ray.annotate.filter", "ravst_ray.core.intervals")
    assert may_import("ravst_ray.annotate.filter", "ravst_ray.annotate.step")
    assert may_import("ravst_ray.annotate.pipeline", "ravst_ray.annotate.filter")
    assert may_import("jobs.demo", "ravst_ray.toyworld.world")
    assert not may_import("ravst_ray.annotate.filter", "ravst_ray.annotate.pipeline")
    assert not may_import("ravst_ray.core.geometry", "ravst_ray.datasets.unav")
    assert not may_import("ravst_ray.annotate.filter", "ravst_ray.training.sft")
    assert not may_import("ravst_ray.training.loop", "ravst_ray.annotate.pipeline")
    assert not may_import("ravst_ray.tasks.rubric", "ravst_ray.policy.protocols")
    with pytest.raises(KeyError):
        level_key("ravst_ray.newroom.thing")


def test_imports_are_found_wherever_they_stand():
    source = "import a.b as c, d\ndef f():\n    from m import n, k\n    from ravst_ray import logs\nfrom . import x\n"
    assert sorted(imported_by(source, {"m.n", "ravst_ray.logs"})) == [".", "a.b", "d", "m", "m.n", "ravst_ray.logs"]


@pytest.mark.parametrize("module", MODULES)
def test_a_layer_imports_only_layers_below_it(module):
    assert "." not in imports(module), "imports are absolute"
    assert [name for name in sorted(imports(module)) if is_ours(name) and not may_import(module, name)] == []


def test_annotate_and_training_meet_only_on_disk():
    for module in MODULES:
        for one, other in (("annotate", "training"), ("training", "annotate")):
            if room(module) == f"ravst_ray.{one}":
                assert not any(room(name) == f"ravst_ray.{other}" for name in imports(module) if is_ours(name)), module


NAMES_A_FAMILY = re.compile(r"qwen|omni(?!\w)|thinker", re.IGNORECASE)
MAY_NAME_A_FAMILY = {
    **{f"ravst_ray/tasks/{task}.py": "a published table" for task in ("avtr", "avsr", "avstr")},
    "ravst_ray/evaluation/benchmarks/published.py": "published tables",
    "ravst_ray/models/size.py": "how large known checkpoints are",
    "ravst_ray/models/shape.py": "how they are built",
}


def test_no_file_outside_the_families_names_one():
    """Hub names of checkpoints (a default to start from) are no knowledge of a family."""
    found = {}
    for path in sorted((ROOT / "ravst_ray").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(("ravst_ray/policy/families/", "ravst_ray/toyworld/")) or name in MAY_NAME_A_FAMILY:
            continue
        text = re.sub(r"\bQwen/[\w.-]+", "", path.read_text(encoding="utf-8"))
        if lines := [line for line in text.splitlines() if NAMES_A_FAMILY.search(line)]:
            found[name] = lines
    assert found == {}


def test_no_file_outside_the_tasks_names_one():
    """The toy checkpoints are trained for tasks; all else asks the registry."""
    named = re.compile(rf"(?<!Video-)\b({'|'.join(TASKS)})\b")
    found = {}
    for path in (*sorted((ROOT / "ravst_ray").rglob("*.py")), *sorted((ROOT / "jobs").glob("*.py"))):
        name = path.relative_to(ROOT).as_posix()
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if named.search(line)]
        if lines and not name.startswith(("ravst_ray/tasks/", "ravst_ray/toyworld/training/")):
            found[name] = lines
    assert found == {}


def test_the_toy_world_does_not_know_what_trains_on_it():
    world = [m for m in MODULES if m.startswith("ravst_ray.toyworld.") and ".training" not in m]
    assert world
    assert not any(name.startswith("ravst_ray.toyworld.training") for module in world for name in imports(module))


def test_ray_is_imported_only_where_things_are_wired():
    using = {module for module in MODULES if "ray" in roots(module)}
    assert "ravst_ray.annotate.pipeline" in using
    assert {module for module in using if room(module) != "jobs"} <= MAY_IMPORT_RAY


@pytest.mark.parametrize("light", LIGHT_ROOMS)
def test_light_rooms_name_nothing_heavy(light):
    assert {
        module: roots(module) & HEAVY for module in MODULES if room(module) == light and roots(module) & HEAVY
    } == {}


def test_light_rooms_and_the_command_line_load_nothing_heavy():
    """Every module of the light rooms, then the command line, in one fresh interpreter."""
    light = [module for module in MODULES if room(module) in LIGHT_ROOMS]
    code = (
        "import importlib, sys\n"
        f"for name in {[*light, 'ravst_ray.cli']!r}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = set({sorted(HEAVY)!r}) & sys.modules.keys()\n"
        "    if loaded: sys.exit(f'{name} loads {sorted(loaded)}')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
