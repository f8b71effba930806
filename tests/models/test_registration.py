"""The models' side of the command line: what fairseq-train asks an architecture for."""

import pytest
from fairseq.tasks import TASK_REGISTRY
from fairseq.tasks.multilingual_translation import MultilingualTranslationTask
from helpers import arguments

MULTI_MODEL = [
    name for name, task in TASK_REGISTRY.items() if issubclass(task, MultilingualTranslationTask)
]


@pytest.mark.parametrize("arch", ["mega_lm_big", "mega_text"])
def test_bf16_asks_for_no_tpu(arch):
    """fairseq's parser sets it; here no TPU's library is installed."""
    args = arguments(f"--arch {arch} --bf16")
    assert args.bf16 and not args.tpu


@pytest.mark.parametrize("task", MULTI_MODEL)
def test_a_task_of_several_models(task):
    with pytest.raises(ValueError) as error:
        arguments(f"--arch mega --task {task} --lang-pairs de-en")
    for words in (f"--task {task}", "--arch mega is one model", "translation_multi_simple_epoch"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    "option",
    ["--variant-block-multiple-min 2", "--variant-block-multiple-max 6", "--valid-block splits:10"],
)
def test_published_options_of_long_texts(option):
    """One error says which task has them; and that task has them."""
    with pytest.raises(ValueError, match=f"{option.split()[0]} is an option of --task mega_lang"):
        arguments(f"--arch mega_lm --task language_modeling {option}")
    args = vars(arguments(f"--arch mega_lm --task mega_language_modeling {option}"))
    name, value = option[2:].split()
    assert str(args[name.replace("-", "_")]) == value
