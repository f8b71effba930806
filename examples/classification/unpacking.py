"""Places for the files of an archive by the pattern of their paths."""

import re
from typing import Optional

from examples.download import Place


def matching(pattern: str) -> Place:
    """What the group of the pattern matches in the path. It must not match .. or a leading /."""
    compiled = re.compile(pattern)

    def place(path: str) -> Optional[str]:
        found = compiled.fullmatch(path)
        return found[1] if found else None

    return place
