"""What fairseq-train says of its validations with --log-format json."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LN2 = math.log(2)  # fairseq logs bits; times this, they are nats


class Validation(NamedTuple):
    """Updates and seconds of training until then, and what was logged."""

    updates: int
    seconds: float
    logged: dict


def validations(log: Path) -> Iterator[Validation]:
    seconds = 0.0
    for row in json_lines(log):
        if "num_updates" in row:  # of train_inner; in others, train_wall is the time of all
            seconds += float(row["train_wall"])  # since the last of these lines
        if "valid_num_updates" in row:
            yield Validation(int(row["valid_num_updates"]), seconds, row)


def json_lines(log: Path) -> Iterator[dict]:
    for text in re.findall(r"(\{.*\})$", log.read_text(encoding="utf-8"), re.MULTILINE):
        try:
            yield json.loads(text)
        except json.JSONDecodeError:  # the configuration, which is no JSON
            continue
