"""Installs the plugin with the fairseq that runs on this Python."""

from setuptools import find_packages, setup

TRANSLATION = ["sacremoses", "subword-nmt"]

setup(
    name="fairseq-mega",
    version="0.2.0",
    description="Mega (Moving Average Equipped Gated Attention) as a plugin for stock fairseq",
    license="MIT",
    packages=find_packages(include=["fairseq_mega", "fairseq_mega.*"]),
    python_requires=">=3.9,<3.13",
    install_requires=[
        # The release does not import on Python 3.11; this build of the main branch does.
        'fairseq==0.12.2; python_version < "3.11"',
        've-fairseq==0.12.3; python_version >= "3.11"',
        "numpy<2",  # fairseq uses names that numpy 2 has dropped
        "sacrebleu",
        "sentencepiece",
        "torch>=2.6",
    ],
    extras_require={
        "bench": ["matplotlib"],
        "demo": ["babel"],
        "test": ["babel", "hypothesis", "mypy", "pytest", "pytest-cov", "pytest-xdist", "ruff"]
        + TRANSLATION,
        "translation": TRANSLATION,
    },
)
