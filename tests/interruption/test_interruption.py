"""A few of the interruptions that `make interruption` makes a hundred of."""

from interruption import training


def test_trainings_end_as_if_they_had_not_been_interrupted():
    tally = training.main(["--runs", "1", "--seed", "8"])
    assert tally.runs == 1 and sum(tally.interruptions.values()) >= 1
    assert not tally.wrong
