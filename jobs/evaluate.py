"""The evaluation job: ``python jobs/evaluate.py --predictions F.jsonl --annotations F.json --out DIR``."""

import sys

from ravst_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
