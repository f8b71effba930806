"""fairseq's side: a text as samples of a language model, and sequences with classes."""
