"""Mega (Ma et al., arXiv 2209.10655) as functions on tensors, without parameters."""
