"""Random options: those that fit together work, whole; of others, the error says which and why.

``make properties`` tries thousands; see PROPERTY_CASES.
"""

import os
import re

import choices
import pytest
import trials
from hypothesis import HealthCheck, given, settings

# Cases of each test. By default few, and always the same.
CASES = int(os.environ.get("PROPERTY_CASES", 8))
KINDS = {
    "mega": (trials.Translation, choices.TRANSLATION),
    "mega_lm": (trials.LanguageModel, choices.LANGUAGE_MODEL),
    "mega_masked_lm": (trials.MaskedLM, choices.MASKED_LM),
    "sentences": (trials.Sentences, choices.MASKED_LM),
    "texts": (trials.Texts, choices.TEXTS),
    "pairs": (trials.Pairs, choices.TEXTS),
    "numbers": (trials.Numbers, choices.CLASSIFIER),
    "speech": (trials.Speech, choices.CLASSIFIER),
    "pictures": (trials.Pictures, choices.IMAGES),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def names(message, options):
    """Whether the message has an option and its value, as "--n-dim is 0" or "--n-dim (0)"."""
    for name, value in options.items():
        words = rf"( is | \(){re.escape(str(value))}(?![\w.])"
        if value is None:
            words = r"( is not given| \(None\))"
        elif value is True:
            words = ""
        if re.search(rf"--{name.replace('_', '-')}(?![\w-]){words}", message):
            return True
    return False


def each_case(test, strategy):
    given(strategy)(
        settings(
            max_examples=CASES,
            deadline=None,
            database=None,
            derandomize="PROPERTY_CASES" not in os.environ,
            suppress_health_check=list(HealthCheck),
        )(test)
    )()


@kinds
def test_options_that_fit_together_work(kind, tmp_path):
    make, strategies = KINDS[kind]

    def check(options):
        trials.quietly(lambda: make(options).run(tmp_path / "model.pt"))

    each_case(check, choices.good(strategies))


@kinds
def test_odd_options_work_or_are_refused_by_name(kind, tmp_path):
    make, strategies = KINDS[kind]

    def check(options):
        try:
            trial = make(options)
        except ValueError as error:
            assert names(str(error), options), error
            return
        trials.quietly(lambda: trial.run(tmp_path / "model.pt"))

    each_case(check, choices.odd(strategies))
