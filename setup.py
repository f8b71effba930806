"""Installs the plugin with a fairseq that runs on today's Python."""

from setuptools import find_packages, setup

# Builds of fairseq's main branch, whose last release does not import on these Pythons. ve-fairseq
# consists of wheels; fairseq-fixed is compiled where there is none (docs/compatibility.md).
WHEEL = "platform_system == 'Linux' and platform_machine == 'x86_64' and python_version < '3.13'"
NO_WHEEL = "platform_system != 'Linux' or platform_machine != 'x86_64' or python_version >= '3.13'"
FAIRSEQ = [f"ve-fairseq==0.12.3; {WHEEL}", f"fairseq-fixed==0.12.3.1; {NO_WHEEL}"]

TRANSLATION = ["sacremoses", "subword-nmt"]
CLASSIFICATION = ["pillow"]  # reads pictures
INSPECT = ["matplotlib"]

setup(
    name="fairseq-mega",
    version="0.2.0",
    description="Mega (Moving Average Equipped Gated Attention) as a plugin for fairseq",
    license="MIT",
    packages=find_packages(include=["fairseq_mega", "fairseq_mega.*"]),
    python_requires=">=3.11,<3.14",
    install_requires=[
        *FAIRSEQ,
        "filelock",
        "numpy",
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
