"""The demo of long sequences, and its Transformer."""

import json
import re
from dataclasses import replace

import torch
from commands import ROOT
from fairseq.options import get_training_parser, parse_args_and_arch

from examples.classification import demo
from examples.classification.baseline import TransformerClassifier, TransformerClassifierConfig


@torch.no_grad()
def test_the_transformer_sees_no_padding_but_the_order():
    torch.manual_seed(1)
    cfg = TransformerClassifierConfig(encoder_embed_dim=16, max_positions=20)
    model = TransformerClassifier(cfg, 12, pad=1).eval()

    def scores(tokens):
        return model({"net_input": {"src_tokens": tokens}})["encoder_out"]

    tokens = torch.randint(4, 12, (2, 9))
    padded = torch.cat([tokens, torch.ones(2, 4, dtype=torch.long)], dim=1)
    torch.testing.assert_close(scores(padded), scores(tokens))
    assert not torch.allclose(scores(tokens), scores(tokens.flip(1)), atol=1e-3)


TINY = {"20000 100 2000": "80 10 20", "count 60": "count 8", "-size 4": "-size 2"}
TINY[r"max-update \d+"] = "max-update 1"


def tiny(options):
    for large, small in TINY.items():
        options = re.sub(large, small, options)
    return options


def test_the_demo_from_end_to_end(tmp_path, monkeypatch, capsys):
    """Mega-chunk on sounds at the smallest size; a second run finds all done."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(demo.demo.ENVIRONMENT, "OMP_NUM_THREADS", "1")
    tasks = [
        replace(task, data=[*map(tiny, task.data)], train=tiny(task.train)) for task in demo.TASKS
    ]
    monkeypatch.setattr(demo, "TASKS", tasks)
    trials = demo.plan(tmp_path)
    assert [trial.model for trial in trials] == ["mega", "mega-chunk", "transformer"] * 2
    for _ in range(2):
        demo.run(trials[4:5], tmp_path)
    assert capsys.readouterr().out.count("done before") == 3
    demo.report(tmp_path, trials[4:5], threads=1)
    *_, row = (tmp_path / "table.md").read_text().split("\n\n")[0].splitlines()
    cells = row.split("|")
    summary = json.loads((trials[4].test.folder / "summary-test.json").read_text())
    assert f" {summary['accuracy']:.1f} (" in cells[5]
    assert float(cells[6]) >= 1 and int(cells[7].split()[0].replace(",", "")) > 100


def test_the_trainings_have_options_of_fairseq_and_are_one_process_on_the_cpu(monkeypatch):
    """Without the options, fairseq starts a process on each GPU."""
    monkeypatch.chdir(ROOT)
    for trial in demo.plan(ROOT / "demo"):
        (words,) = trial.training.commands
        args = parse_args_and_arch(get_training_parser(), words[1:])
        assert args.cpu and args.distributed_world_size == 1
