"""Averages the parameters of the last checkpoints of a training.

    python examples/translation/average_checkpoints.py checkpoints --last 10

takes checkpointN.pt of the last 10 epochs in the folder `checkpoints`; with --updates, the last 10
of checkpoint_EPOCH_UPDATES.pt, which --save-interval-updates makes. The result, by default
checkpoints/averaged.pt, is what the last of them is but for the parameters and the optimizer's
state, which it does not have.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Dict, List, Optional

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

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
    """The last checkpoint, with the mean of all of theirs for each parameter.

    Sums are in float32 at least. What is no floating-point number stays as the last one has it.
    Raises ValueError if one cannot be read, or if they do not have the same parameters in the same
    shapes.
    """
    sums: Dict[str, torch.Tensor] = {}
    for path in paths:
        checkpoint = read_checkpoint(str(path))
        model = checkpoint["model"]
        if not sums:
            sums = {name: zeros_like(value) for name, value in model.items()}
        check_same(sums, model, path, paths[0])
        for name, value in model.items():
            if value.is_floating_point():
                sums[name] += value
    checkpoint["model"] = {
        name: (sums[name] / len(paths)).to(value.dtype) if value.is_floating_point() else value
        for name, value in model.items()
    }
    checkpoint["last_optimizer_state"] = None
    return checkpoint


def zeros_like(value: torch.Tensor) -> torch.Tensor:
    return torch.zeros(value.shape, dtype=torch.promote_types(value.dtype, torch.float32))


def check_same(sums: Dict, model: Dict, path: Path, first: Path) -> None:
    """Raises ValueError if the two have different names, or a name has different shapes."""
    different = sorted(
        name
        for name in {*sums, *model}
        if name not in sums or name not in model or sums[name].shape != model[name].shape
    )
    if different:
        names = ", ".join(different[:3]) + (", …" if len(different) > 3 else "")
        raise ValueError(
            f"{path} and {first} are not of the same model, they differ in {names}: average "
            f"checkpoints of one training"
        )


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
