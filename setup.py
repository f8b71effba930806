"""Installs the plugin, and a build of fairseq that runs on current versions of Python."""

from setuptools import find_packages, setup

# Builds of fairseq's main branch; the last release of fairseq does not import on these Pythons.
# ve-fairseq has wheels for some of them, fairseq-fixed is compiled (docs/compatibility.md).
WHEEL = "platform_system == 'Linux' and platform_machine == 'x86_64' and python_version < '3.13'"
NO_WHEEL = "platform_system != 'Linux' or platform_machine != 'x86_64' or python_version >= '3.13'"
FAIRSEQ = [f"ve-fairseq==0.12.3; {WHEEL}", f"fairseq-fixed==0.12.3.1; {NO_WHEEL}"]

TRANSLATION = ["sacremoses", "subword-nmt"]
INSPECT = ["matplotlib"]

setup(
    name="fairseq-mega",
    version="0.2.0",
    description="Mega (Moving Average Equipped Gated Attention): a plugin for fairseq",
    license="MIT",
    packages=find_packages(include=["fairseq_mega", "fairseq_mega.*"]),
    python_requires=">=3.11,<3.14",
    install_requires=[
        *FAIRSEQ,
        "filelock",
        "numpy",
        "safetensors",
        "sacrebleu",
        "scipy",  # lengths of FFTs, intervals of accuracies
        "sentencepiece",
        "torch>=2.6",
    ],
    extras_require={
        "classification": ["pillow"],  # reads pictures
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
        # Tests of the EMA's kernels: a gigabyte. torch for CUDA installs it already.
        "triton": ["triton"],
    },
)
