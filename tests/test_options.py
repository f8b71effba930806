"""``python -m fairseq_mega options``: the options and defaults of an architecture."""

import re

import pytest
from fairseq.models import MODEL_DATACLASS_REGISTRY

from fairseq_mega.__main__ import main


def test_options_of_an_architecture(capsys, monkeypatch):
    """Each option with its type and the default of this architecture."""
    monkeypatch.setenv("COLUMNS", "500")  # each option on one line
    main(["options", "mega_wmt_en_de_big"])
    rows = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()]
    found = {row[0]: row[1:] for row in rows}
    assert found["--encoder-embed-dim"] == ["int", "1024", "encoder model dimension"]
    assert found["--attention-activation-fn"][:2] == ["choice", "softmax"]
    assert found["--attention-activation-fn"][2].startswith("softmax | relu2 | laplace:")
    assert found["--normalize-before"][0] == "flag"
    declared = MODEL_DATACLASS_REGISTRY["mega_wmt_en_de_big"].__dataclass_fields__.values()
    assert len(found) == 1 + sum("help" in each.metadata for each in declared)


def test_the_list_of_architectures(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    main(["options"])
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert {"mega", "mega_wmt_en_de", "mega_lm_long", "mega_listops", "mega_masked_lm"} <= {*names}
    assert "transformer" not in names and max(map(len, lines)) <= 120
    assert " mega --attention-dropout 0.1 " in lines[names.index("mega_wmt_en_de")]
    assert "--normalize-before --decoder-chunk-size 512" in lines[names.index("mega_lm_long") + 1]


@pytest.mark.parametrize(
    "name, says",
    [("mega_wmt_en_d", "did you mean mega_wmt_en_de or "), ("xyz", "it must be in .*'mega_lm'")],
)
def test_unknown_architectures(name, says):
    with pytest.raises(SystemExit, match=f"unknown architecture '{name}': {says}"):
        main(["options", name])
