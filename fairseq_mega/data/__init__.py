"""Datasets for fairseq: texts for language models, and sequences and images with classes."""
