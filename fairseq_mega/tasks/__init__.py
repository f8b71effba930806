"""Tasks for fairseq: language modeling on long text, and classification."""
