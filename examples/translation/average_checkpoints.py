"""Averages the parameters of the last checkpoints of a training.

    python examples/translation/average_checkpoints.py checkpoints --last 10

takes checkpointN.pt of the last 10 epochs in the folder `checkpoints`; with --updates, the last 10
of checkpoint_EPOCH_UPDATES.pt, which --save-interval-updates makes. The result, by default
checkpoints/averaged.pt, has everything else from the last of them, except for the optimizer's
state, which it leaves out.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Dict, List, Optional

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fairseq_mega.checkpoints.reading import read_checkpoint  # noqa: E402
from fairseq_mega.checkpoints.writing import replaced_file  # noqa: E402

EPOCHS, UPDATES = r"checkpoint(\d+)\.pt", r"checkpoint_\d+_(\d+)\.pt"


def last_checkpoints(folder: Path, count: int, pattern: str) -> List[Path]:
    """The `count` latest checkpoints whose names the pattern matches, in their order."""
    numbered = {
        int(match[1]): path
        for path in folder.glob("checkpoint*.pt")
        if (match := re.fullmatch(pattern, path.name))
    }
    if len(numbered) < count or count < 1:
        raise ValueError(
            f"--last {count}: {folder} has {len(numbered)} checkpoints of this kind. Train with "
            f"--keep-last-epochs or --keep-interval-updates of at least as many, and without "
            f"--no-epoch-checkpoints"
        )
    return [numbered[number] for number in sorted(numbered)[-count:]]


def average(paths: List[Path]) -> Dict:
    """The last checkpoint, with the mean over all of them for each floating-point parameter.

    Sums are in float32 or float64. Raises ValueError if a checkpoint cannot be read, or if they do
    not have the same parameters in the same shapes.
    """
    sums: Dict[str, torch.Tensor] = {}
    for path in paths:
        checkpoint = read_checkpoint(str(path))
        model = checkpoint["model"]
        sums = sums or {name: torch.zeros_like(value) for name, value in model.items()}
        different = sorted(
            name
            for name in {*sums, *model}
            if name not in sums or name not in model or sums[name].shape != model[name].shape
        )
        if different:
            raise ValueError(
                f"{path} and {paths[0]} are not of the same model, they differ in "
                f"{', '.join(different[:3])}: average checkpoints of one training"
            )
        for name, value in model.items():
            if value.is_floating_point():
                sums[name] = sums[name] + value.to(torch.promote_types(value.dtype, torch.float32))
    for name, value in model.items():
        if value.is_floating_point():
            model[name] = (sums[name] / len(paths)).to(value.dtype)
    checkpoint["last_optimizer_state"] = None
    return checkpoint


def main(words: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="--save-dir of the training")
    parser.add_argument("--last", type=int, required=True, help="how many checkpoints")
    parser.add_argument("--updates", action="store_true", help="those made every so many updates")
    parser.add_argument("--output", type=Path, help="where to write: FOLDER/averaged.pt")
    args = parser.parse_args(words)

    output = args.output or args.folder / "averaged.pt"
    if args.output and not output.parent.is_dir():
        sys.exit(f"--output is {output}, but there is no folder {output.parent}.")
    try:
        paths = last_checkpoints(args.folder, args.last, UPDATES if args.updates else EPOCHS)
        checkpoint = average(paths)
    except (OSError, ValueError) as error:
        sys.exit(f"{error}.")
    with replaced_file(output) as part:
        torch.save(checkpoint, part)
    print(f"{output}: the mean of {', '.join(path.name for path in paths)}")


if __name__ == "__main__":
    main()
