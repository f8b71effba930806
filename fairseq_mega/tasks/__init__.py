"""fairseq's side: the tasks of language modeling on long text and of classification."""
