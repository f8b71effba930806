"""Runs a command and writes how long it took and how much memory it had at most.

python examples/classification/measured.py COST.json PROGRAM [OPTION...]
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    out, *words = sys.argv[1:]
    start = time.perf_counter()
    status = subprocess.run(words).returncode
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # KiB; bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    Path(out).write_text(json.dumps({"seconds": seconds, "peak_bytes": peak * unit}) + "\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
