"""The GRPO job: ``python jobs/train_grpo.py --config FILE [--resume] [key.sub=value …]``."""

import sys

from ravst_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
