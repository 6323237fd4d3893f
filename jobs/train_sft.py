"""The supervised job: ``python jobs/train_sft.py --config FILE [key.sub=value …]``."""

import sys

from ravst_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["train-sft", *sys.argv[1:]]))
