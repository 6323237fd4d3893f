"""The annotation job: ``ray job submit --working-dir . -- python jobs/annotate.py --config FILE [key.sub=value …]``."""

import sys

from ravst_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["annotate", *sys.argv[1:]]))
