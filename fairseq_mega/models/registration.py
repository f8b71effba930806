"""Registers models with fairseq: their names, presets and options, and the tasks they learn."""

import sys
from argparse import SUPPRESS, ArgumentError, Namespace
from contextlib import suppress
from dataclasses import fields
from importlib.util import find_spec
from typing import Callable, Dict, Tuple

from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, register_model
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from fairseq.tasks.denoising import DenoisingTask
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.masked_lm import MaskedLMTask
from fairseq.tasks.multilingual_language_modeling import MultilingualLanguageModelingTask
from fairseq.tasks.multilingual_masked_lm import MultiLingualMaskedLMTask
from fairseq.tasks.multilingual_translation import MultilingualTranslationTask
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from fairseq.tasks.sentence_prediction_adapters import SentencePredictionAdapterTask
from fairseq.tasks.sentence_ranking import SentenceRankingTask
from fairseq.tasks.span_masked_lm import SpanMaskedLMTask
from fairseq.tasks.translation import TranslationTask
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask

from .config import with_defaults
from .options import as_flag

# Tasks by the architecture that learns them.
SEQUENCES = (
    (TranslationTask, TranslationMultiSimpleEpochTask, DenoisingTask, SpanMaskedLMTask),
    "mega",
)
TEXTS = (LanguageModelingTask, MultilingualLanguageModelingTask), "mega_lm"
MASKED = (MaskedLMTask, MultiLingualMaskedLMTask), "mega_masked_lm"
# Tasks that need another kind of model, and what the command can say instead.
OTHER_MODELS = (
    (
        MultilingualTranslationTask,
        "a multi-model, with a model for each pair of languages, but --arch {arch} is one model: "
        "use --task translation_multi_simple_epoch, which trains one model for all pairs",
    ),
    (
        SentencePredictionAdapterTask,
        "a model with adapters, but --arch {arch} has none: use --task sentence_prediction",
    ),
)
# Options of the task mega_language_modeling that published commands give to language_modeling.
LONG_TEXT = {
    "variant_block_multiple_min": int,
    "variant_block_multiple_max": int,
    "valid_block": str,
}


def register(name: str, config: type) -> Callable[[type], type]:
    """Decorates a model as fairseq's ``register_model`` does; ``fairseq-train`` also calls
    ``check_command_line`` for its architecture."""

    def decorate(model: type) -> type:
        model = register_model(name, dataclass=config)(model)
        ARCH_CONFIG_REGISTRY[name] = check_command_line
        return model

    return decorate


def register_presets(model: type, config: type, presets: Dict[str, Dict]) -> None:
    """Registers architectures: a name and the options in which it differs from the model's own.

    Each is a model with its own defaults, because fairseq's ``register_model_architecture`` cannot
    tell options in YAML from the model's defaults.
    """
    for name, options in presets.items():
        names = {"__module__": model.__module__, "__doc__": f"The preset ``{name}``."}
        preset = type(name, (model,), names)
        setattr(sys.modules[model.__module__], name, preset)  # where pickle looks for it
        register(name, with_defaults(**options)(config))(preset)


# --- the command line ---------------------------------------------------------------------------


def add_model_options(parser, config) -> None:
    """Adds the options of a model. Unlike fairseq's, a flag never unsets an option that an
    architecture sets."""
    for each in fields(config):
        if each.type is bool:
            _add_option(parser, as_flag(each.name), action="store_true", help=each.metadata["help"])
    gen_parser_from_dataclass(parser, config, delete_default=True)


def _add_option(parser, *args, **kwargs) -> None:
    with suppress(ArgumentError):  # the task may have added it
        parser.add_argument(*args, **kwargs)


def add_long_text_options(parser) -> None:
    """Adds the options of long texts, so that ``check_command_line`` sees them with any task."""
    for name, kind in LONG_TEXT.items():
        _add_option(parser, as_flag(name), type=kind, default=SUPPRESS, help=SUPPRESS)


def check_command_line(args: Namespace) -> None:
    """Checks the options of ``fairseq-train``, which calls it once they are parsed."""
    if args.bf16 and find_spec("torch_xla") is None:
        args.tpu = False  # fairseq's parser takes all of bfloat16 for that of TPUs
    task = TASK_REGISTRY[args.task]
    for kind, needs in OTHER_MODELS:
        if issubclass(task, kind):
            raise ValueError(f"--task {args.task} needs {needs.format(arch=args.arch)}")
    classifies = hasattr(ARCH_MODEL_REGISTRY[args.arch], "register_classification_head")
    if issubclass(task, (SentencePredictionTask, SentenceRankingTask)) and not classifies:
        raise ValueError(
            f"--task {args.task} needs a model with classification heads, but --arch {args.arch} "
            "has none: use --arch mega_masked_lm or one of its presets"
        )
    known = getattr(TASK_DATACLASS_REGISTRY.get(args.task), "__dataclass_fields__", {})
    for name in LONG_TEXT:
        if hasattr(args, name) and name not in known:
            raise ValueError(
                f"{as_flag(name)} is an option of --task mega_language_modeling, but "
                f"--task is {args.task}: give --task mega_language_modeling, which trains the same "
                "models, or leave the option out"
            )


# --- tasks --------------------------------------------------------------------------------------


def check_task(task, *others: Tuple[Tuple[type, ...], str]) -> None:
    """Refuses tasks of other models: ``others`` are their classes, and the architecture to use."""
    for kinds, architecture in others:
        if isinstance(task, kinds):
            raise ValueError(
                f"--task {task_name(task)} is not for this architecture: use --arch {architecture} "
                "or one of its presets, or another task"
            )


def task_name(task) -> str:
    """The name by which ``--task`` knows a task."""
    kind = type(task)
    return next((name for name, each in TASK_REGISTRY.items() if each is kind), kind.__name__)
