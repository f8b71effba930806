"""Random models of the Hugging Face port of Mega, with what it computes of them.

    pip install --target DIR transformers==4.57.1
    PYTHONPATH=DIR python tests/parity/huggingface/make.py OUT          # the cases of the tests
    PYTHONPATH=DIR python tests/parity/huggingface/make.py OUT --count 40   # and random ones

Each case is a folder as ``save_pretrained`` writes it, and ``expected.pt``: ``input_ids`` and
``attention_mask`` ``(B, L)``, ``hidden`` ``[(B, L, D), ...]`` from the embeddings to the last
layer, and ``logits``. Values at padding mean nothing.
"""

import argparse
import random
from pathlib import Path

import torch
from transformers.models.deprecated.mega.configuration_mega import MegaConfig
from transformers.models.deprecated.mega.modeling_mega import (
    MegaForMaskedLM,
    MegaForSequenceClassification,
)

SIZES = dict(
    vocab_size=24,
    hidden_size=12,
    num_hidden_layers=2,
    intermediate_size=16,
    ema_projection_size=3,
    shared_representation_size=8,
    nffn_hidden_size=20,
    max_positions=16,
)
LENGTHS = (16, 9, 1)
CASES = {
    "masked_lm": dict(),
    "masked_lm_chunks": dict(
        normalization_type="layernorm",
        normalize_before_mega=False,
        normalize_before_ffn=False,
        attention_activation="laplace",
        relative_positional_bias="simple",
        use_chunking=True,
        chunk_size=4,
        activation="gelu_accurate",
        truncation=6,
        tie_word_embeddings=False,
        add_lm_hidden_dense_layer=False,
    ),
    "classifier": dict(
        normalization_type="batchnorm",
        attention_activation="relu2",
        relative_positional_bias="simple",
        use_normalized_ffn=False,
        num_labels=3,
    ),
}


def scatter(model, generator):
    """Values of order one in every weight, as initial ones would hide an error."""
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in weights.items():
        if not value.is_floating_point() or name.endswith("_float_tensor"):
            continue
        noise = torch.randn(value.shape, generator=generator)
        if name.endswith("running_var"):
            noise = noise.abs() + 0.5
        elif value.dim() == 2 and "ema_gate" not in name:
            noise = noise / value.size(-1) ** 0.5
        value.data.copy_(noise)
    model.mega.embedding_layer.word_embeddings.weight.data[1] = 0.0  # as padding_idx keeps it


def random_options(rng):
    """Any combination that can be converted."""
    before, chunks = rng.random() < 0.5, rng.random() < 0.5
    norm = rng.choice(["layernorm", "scalenorm", "batchnorm", "syncbatchnorm"])
    return dict(
        normalize_before_mega=before,
        normalize_before_ffn=before,
        normalization_type=norm,
        norm_affine=norm == "layernorm" or rng.random() < 0.6,  # the port cannot make the other
        activation=rng.choice(["silu", "relu", "gelu", "gelu_accurate", "linear", "tanh"]),
        attention_activation=rng.choice(["softmax", "laplace", "relu2"]),
        relative_positional_bias=rng.choice(["simple", "rotary"]),
        use_chunking=chunks,
        chunk_size=rng.choice([4, 8]) if chunks else rng.choice([-1, 16]),
        truncation=rng.choice([None, 1, 5, 99]),
        use_normalized_ffn=rng.random() < 0.8,
        tie_word_embeddings=rng.random() < 0.5,
        add_lm_hidden_dense_layer=rng.random() < 0.5,
        num_labels=rng.choice([0, 0, 1, 2, 5]),
    )


@torch.no_grad()
def make(folder, options, seed):
    options = dict(options)
    kind = MegaForSequenceClassification if options.get("num_labels") else MegaForMaskedLM
    if not options.get("num_labels"):
        options.pop("num_labels", None)
    config = MegaConfig(**{**SIZES, **options})
    generator = torch.Generator().manual_seed(seed)
    model = kind(config).eval()
    scatter(model, generator)
    shape = len(LENGTHS), max(LENGTHS)
    ids = torch.randint(4, config.vocab_size, shape, generator=generator)
    mask = (torch.arange(shape[1]) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    ids = ids.masked_fill(mask == 0, config.pad_token_id)
    output = model(ids, attention_mask=mask, output_hidden_states=True)
    model.save_pretrained(folder, safe_serialization=seed % 2 == 0)
    torch.save(
        {
            "input_ids": ids,
            "attention_mask": mask,
            "hidden": [each.clone() for each in output.hidden_states],
            "logits": output.logits,
        },
        folder / "expected.pt",
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=0, help="random cases more")
    args = parser.parse_args()
    cases = dict(CASES)
    cases.update({f"random{i}": random_options(random.Random(i)) for i in range(args.count)})
    for seed, (name, options) in enumerate(cases.items()):
        make(args.out / name, options, seed)


if __name__ == "__main__":
    main()
