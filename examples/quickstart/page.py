"""Makes one page of pictures: what models remember (`inspect`), and their trainings (`curves`).

python examples/quickstart/page.py OUT --checkpoints CHECKPOINT... --logs LOG...
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fairseq_mega.inspection.curve_figures import curve_parts
from fairseq_mega.inspection.logs import read_runs
from fairseq_mega.inspection.page import write_page
from fairseq_mega.inspection.weight_figures import inspect_parts
from fairseq_mega.inspection.weights import read_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--checkpoints", nargs="+", default=[], help="of Mega models")
    parser.add_argument("--logs", nargs="+", type=Path, required=True, help="of trainings")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    parts = curve_parts(read_runs(args.logs))
    for i, checkpoint in enumerate(args.checkpoints):
        parts += inspect_parts(read_weights(checkpoint), prefix=f"model{i}-")
    print(write_page(args.out, "What the models of the demo remember", parts))


if __name__ == "__main__":
    main()
