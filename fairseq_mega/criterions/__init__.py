"""The loss of classification, for fairseq."""
