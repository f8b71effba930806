"""Random options work, from training to a loaded checkpoint; or the error says which do not.

``make properties`` draws hundreds of them; see PROPERTY_CASES.
"""

import os
import re

import choices
import pytest
import trials
from hypothesis import HealthCheck, given, settings

# Cases of each test. By default few, and always the same.
CASES = int(os.environ.get("PROPERTY_CASES", 12))


def names(message, options):
    """Tells whether the message has an option and its value, as "--n-dim is 0" or "--n-dim (0)"."""
    for name, value in options.items():
        words = rf"( is | \(){re.escape(str(value))}(?![\w.])"
        if value is None:
            words = r"( is not given| \(None\))"
        elif value is True:
            words = ""
        if re.search(rf"--{name.replace('_', '-')}(?![\w-]){words}", message):
            return True
    return False


@pytest.mark.parametrize("kind", trials.KINDS)
def test_random_options_work_or_are_refused_by_name(kind, tmp_path):
    make, config = trials.KINDS[kind]
    worked = 0

    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        derandomize="PROPERTY_CASES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(choices.options(config))
    def check(options):
        nonlocal worked
        try:
            trial = make(options)
        except ValueError as error:
            assert names(str(error), options), error
            return
        trials.quietly(lambda: trial.run(tmp_path / "model.pt"))
        worked += 1

    check()
    assert worked >= CASES / 6, "almost everything is refused"
