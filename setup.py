"""Installs the plugin with a fairseq that runs on today's Python."""

from setuptools import find_packages, setup

TRANSLATION = ["sacremoses", "subword-nmt"]
CLASSIFICATION = ["pillow"]  # reads pictures
INSPECT = ["matplotlib"]

setup(
    name="fairseq-mega",
    version="0.2.0",
    description="Mega (Moving Average Equipped Gated Attention) as a plugin for stock fairseq",
    license="MIT",
    packages=find_packages(include=["fairseq_mega", "fairseq_mega.*"]),
    python_requires=">=3.11,<3.13",
    install_requires=[
        # A build of fairseq's main branch: its last release does not import on these Pythons, and
        # on older ones no pip of today installs it.
        "ve-fairseq==0.12.3",
        "filelock",
        "numpy<2",  # fairseq uses names that numpy 2 has dropped
        "safetensors",
        "sacrebleu",
        "scipy",  # lengths of FFTs
        "sentencepiece",
        "torch>=2.6",
    ],
    extras_require={
        "classification": CLASSIFICATION,
        "demo": ["babel", *INSPECT],
        "images": ["pillow"],
        "inspect": INSPECT,
        "test": [
            "babel",
            "hypothesis",
            "mypy",
            "pillow",
            "pytest",
            "pytest-cov",
            "pytest-xdist",
            "ruff",
            *INSPECT,
            *TRANSLATION,
        ],
        "translation": TRANSLATION,
        # Tests of the EMA's kernels: a gigabyte. torch for GPUs brings its own.
        "triton": ["triton"],
    },
)
