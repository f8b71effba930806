"""fairseq's side: the task of language modeling on long text."""
