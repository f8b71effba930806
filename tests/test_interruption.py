"""One of the runs that `make interruption` makes sixty of."""

import interruption


def test_a_training_ends_as_if_it_had_not_been_killed(capsys):
    assert not interruption.main(["--runs", "1"])
    assert "too late" not in capsys.readouterr().out
