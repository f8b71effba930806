"""fairseq's side: the loss of classification."""
