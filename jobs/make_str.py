"""The questions job: ``ray job submit --working-dir . -- python jobs/make_str.py [--config F] [key.sub=value …]``."""

import sys

from ravst_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["make-str", *sys.argv[1:]]))
