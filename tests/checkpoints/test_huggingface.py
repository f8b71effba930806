"""The converter of the Hugging Face port, compared with the port's results."""

import json
import shutil

import pytest
import torch
from commands import run_warm
from fairseq.data import Dictionary
from masked_lm import HEAD, HUGGINGFACE, converted, difference

from fairseq_mega import MegaMaskedLM
from fairseq_mega.__main__ import main
from fairseq_mega.checkpoints.exchange import export_checkpoint
from fairseq_mega.checkpoints.huggingface import convert_huggingface

CASES = ("masked_lm", "masked_lm_chunks", "classifier")
REFUSED = {
    "is_decoder": True,
    "add_cross_attention": True,
    "bidirectional": False,
    "add_token_type_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 5,
    "eos_token_id": 3,
    "activation": "mish",
    "attention_activation": "sigmoid",
    "relative_positional_bias": "alibi",
    "normalization_type": "rmsnorm",
    "problem_type": "multi_label_classification",
    "truncation": 0,
    "normalize_before_ffn": False,
    "model_type": "bert",
    "vocab_size": 10**9,
    "num_hidden_layers": "many",
    "chunk_size": None,
    "norm_affine": False,
}


@pytest.fixture
def folder(tmp_path):
    """A copy of a case that may be changed."""
    return shutil.copytree(HUGGINGFACE / "masked_lm", tmp_path / "hf")


def refused(folder, says):
    with pytest.raises(ValueError, match=says):
        convert_huggingface(folder, folder / "out", mask_id=23)
    assert not (folder / "out").exists()


def change(folder, **options):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


@pytest.mark.parametrize("case", CASES)
def test_hidden_states_and_logits_are_the_ports(case, tmp_path):
    assert difference(HUGGINGFACE / case, tmp_path / "out") < 1e-5


@pytest.mark.parametrize(
    "option, value, others",
    [
        *((option, value, {}) for option, value in REFUSED.items()),
        *(
            ("chunk_size", size, {"relative_positional_bias": "simple", "use_chunking": chunks})
            for size, chunks in ((0, False), (-1, True), (32, True))
        ),
    ],
)
def test_options_without_equivalent_are_refused_by_name(option, value, others, folder):
    change(folder, **{option: value, **others})
    refused(folder, f"config.json: {option} is ")


def test_other_heads_are_refused(folder):
    weights = torch.load(HUGGINGFACE / "masked_lm_chunks" / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    torch.save({"qa_outputs.weight": weights["mlm_head.bias"]}, folder / "pytorch_model.bin")
    refused(folder, "architectures")


def test_weights_of_other_options_are_refused(folder):
    change(folder, num_hidden_layers=3)
    refused(folder, "lacks the weights of encoder.layers.2")
    change(folder, num_hidden_layers=2, nffn_hidden_size=10**6)
    refused(folder, "its options describe a model of")
    change(folder, nffn_hidden_size=20, hidden_size=14)
    refused(folder, "size mismatch")


def test_weights_are_read_as_all_checkpoints_are(folder):
    (folder / "model.safetensors").write_bytes(b"no weights")
    refused(folder, "model.safetensors cannot be read")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": shutil.rmtree}, folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin cannot be read")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        convert_huggingface(folder, folder / "out", mask_id=23)


def test_words_are_the_tokenizers(folder):
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "Ġa": 4, "b c": 5, "[M]": 6}
    tokenizer = {"model": {"vocab": vocabulary}, "added_tokens": [{"content": "<mask>", "id": 7}]}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    convert_huggingface(folder, folder / "out")
    words = Dictionary.load(str(folder / "out" / "dict.txt"))
    assert len(words) == 24 and words.index("<mask>") == 7 and words.index("Ġa") == 4
    assert words[5] == "madeupword5" and words[23] == "madeupword23"
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps({**vocabulary, "<unk>": 8}))
    with pytest.raises(ValueError, match="--mask-id"):
        convert_huggingface(folder, folder / "out2")
    with pytest.raises(ValueError, match="'<unk>' of number 8"):
        convert_huggingface(folder, folder / "out2", mask_id=6)


def test_names_of_classes(tmp_path):
    folder = shutil.copytree(HUGGINGFACE / "classifier", tmp_path / "hf")
    change(folder, id2label={"0": "not so good", "1": "good"})
    model = converted(folder, folder / "out")
    labels = Dictionary.load(str(folder / "out" / "label" / "dict.txt"))
    assert labels.symbols[labels.nspecial :] == ["not_so_good", "good", "2"]
    assert model.classification_heads[HEAD].out_proj.out_features == 3


def test_a_classifier_loads_from_python(tmp_path):
    model = converted(HUGGINGFACE / "classifier", tmp_path / "out")
    hub = MegaMaskedLM.from_pretrained(str(tmp_path / "out"), "model.pt")
    tokens = torch.load(HUGGINGFACE / "classifier/expected.pt")["input_ids"]
    with torch.no_grad():
        ours, theirs = (
            each(tokens, classification_head_name=HEAD)[0] for each in (model, hub.models[0])
        )
    assert torch.equal(ours, theirs)


def test_a_masked_language_model_is_exported_to_the_last_bit(tmp_path):
    out = tmp_path / "out"
    model = converted(HUGGINGFACE / "masked_lm", out)
    export_checkpoint(out / "model.pt", tmp_path / "exported", out)
    hub = MegaMaskedLM.from_pretrained(str(tmp_path / "exported"))
    tokens = torch.load(HUGGINGFACE / "masked_lm/expected.pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(tokens)[0], hub.models[0](tokens)[0])
    assert hub.task.source_dictionary.symbols == Dictionary.load(str(out / "dict.txt")).symbols


def test_a_classifier_of_sentences_is_not_exported(tmp_path):
    converted(HUGGINGFACE / "classifier", tmp_path / "out")
    with pytest.raises(ValueError, match="'sentence_prediction', not one of .*'masked_lm'"):
        export_checkpoint(tmp_path / "out/model.pt", tmp_path / "exported", tmp_path / "out")


def test_fairseq_validates_converted_models(folder, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match="--mask-id"):
        main(["convert-hf", str(folder), str(out)])
    main(["convert-hf", str(folder), str(out), "--mask-id", "23"])
    assert capsys.readouterr().out.strip() == str(out)
    with pytest.raises(SystemExit, match="exists"):
        main(["convert-hf", str(folder), str(out), "--mask-id", "23"])
    text, data = tmp_path / "valid", tmp_path / "data"
    text.write_text("4 5 6 7 8 9\n10 11 12 13\n" * 4)
    dictionary = out / "dict.txt"
    run_warm(
        "preprocess", f"--only-source --validpref {text} --srcdict {dictionary} --destdir {data}"
    )
    output = run_warm(
        "validate", data, f"--task masked_lm --path {out / 'model.pt'}",
        "--sample-break-mode eos --tokens-per-sample 16 --batch-size 4 --log-format simple",
    )  # fmt: skip
    assert "| loss " in output
