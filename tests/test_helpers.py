"""That a short way through fairseq's options is the long one."""

import pytest
from helpers import TINY, parse, parse_with_hydra

OPTIONS = (
    f"{TINY['mega']} --encoder-chunk-size 4 --share-all-embeddings --dropout 0.25",
    f"{TINY['mega_lm']} --adaptive-softmax-cutoff 4,8 --normalization-type scalenorm",
    "--task mega_language_modeling --arch mega_lm --sample-break-mode eos --tokens-per-sample 8",
    "--task mega_language_modeling --arch mega_lm --max-tokens 8 --seed 3 --batch-size 4",
    "--task lra-text --arch mega_text --max-positions 16 --chunk-size 5",
    "--arch mega --max-tokens 8 --criterion label_smoothed_cross_entropy --label-smoothing 0.1",
)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_configuration_is_fairseqs(options):
    assert parse(options) == parse_with_hydra(options)
