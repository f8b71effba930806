"""Trials of a model of random options: train a step, predict, and reload from a file."""

import math
import warnings
from argparse import Namespace
from functools import cache

import classification
import torch
from fairseq import checkpoint_utils
from fairseq.tasks import FairseqTask
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.sentence_prediction import SentencePredictionTask
from fairseq.tasks.translation import TranslationTask
from helpers import assert_close, batch_of, make_dictionary, parse, randn, sentences
from honest import state_of
from masked_lm import HEAD
from omegaconf import OmegaConf

from fairseq_mega.models import config

DICTIONARY = make_dictionary(20)


@cache
def parts(options):
    """The parts of a configuration that a checkpoint needs; of all of them, handling takes most of
    a trial's time."""
    cfg = OmegaConf.to_container(parse(options), resolve=True)
    return {part: cfg[part] for part in ("model", "task", "criterion")}


class Task(FairseqTask):
    """The part of a task that a model and its criterion use."""

    source_dictionary = target_dictionary = None

    def __init__(self, cfg, **attributes):
        super().__init__(cfg)
        vars(self).update(attributes)


class Trial:
    """A model of given options, its task and criterion.

    ``options``: of fairseq-train; ``chosen``: those of the model that are drawn at random. A kind
    of model has ``make_task``; ``batch``, of several lengths and with targets; and ``predict``:
    tensors that depend on all of the model.
    """

    def __init__(self, chosen):
        self.cfg = OmegaConf.create(parts(self.command_line(chosen)))
        self.cfg.model.update(chosen)
        self.task = self.make_task()
        self.model = self.task.build_model(self.cfg.model)

    def command_line(self, chosen):
        return self.options

    def rows(self, longest=None, seed=3):
        """Sentences of 1 to 12 tokens, but no longer than ``longest``."""
        longest = min(longest or self.model.max_positions(), 12)
        lengths = [max(1, longest * i // 4) for i in (1, 2, 3, 4)]
        return sentences(*lengths, words=len(DICTIONARY), seed=seed)

    def train_a_step(self):
        criterion = self.task.build_criterion(self.cfg.criterion).train()
        self.model.train()
        loss, size, _ = criterion(self.model, self.batch())
        assert math.isfinite(loss.item()) and size > 0, f"loss {loss} of {size}"
        loss.backward()
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all(), f"gradient of {name}"
        torch.optim.SGD(self.model.parameters(), lr=1e-3).step()
        for name, value in self.model.state_dict().items():
            assert torch.isfinite(value).all(), f"{name} after the step"

    @torch.no_grad()
    def come_back(self, path):
        """Saves and loads the model as fairseq does; it predicts the same, bit for bit."""
        state = state_of(self.cfg, self.model)
        checkpoint_utils.torch_persistent_save(state, str(path))
        (loaded,), _ = checkpoint_utils.load_model_ensemble([str(path)], task=self.task)
        before, after = (self.predict(each.eval()) for each in (self.model, loaded))
        assert len(before) == len(after)
        for ours, theirs in zip(before, after):
            assert torch.isfinite(ours).all()
            assert torch.equal(ours, theirs)
        return loaded

    def run(self, path):
        self.train_a_step()
        return self.come_back(path)


def sample(source, target, **net_input):
    tokens, lengths = batch_of(source), torch.tensor([len(row) for row in source])
    return {
        "id": torch.arange(len(source)),
        "nsentences": len(source),
        "ntokens": sum(map(len, target)),
        "net_input": {"src_tokens": tokens, "src_lengths": lengths, **net_input},
        "target": batch_of(target),
    }


def shifted(sentences):
    """The tokens that are read before each token: the end first."""
    return [row.roll(1) for row in sentences]


class Translation(Trial):
    options = "-a mega"

    def command_line(self, chosen):
        if chosen["adaptive_softmax_cutoff"] is None:
            return f"{self.options} --criterion cross_entropy"
        return f"{self.options} --criterion adaptive_loss --ddp-backend legacy_ddp"

    def make_task(self):
        return TranslationTask(self.cfg.task, DICTIONARY, DICTIONARY)

    def batch(self):
        source, target = map(self.rows, self.model.max_positions())
        return sample(source, target, prev_output_tokens=batch_of(shifted(target)))

    def predict(self, model):
        """Scores of given tokens, and hypotheses of a beam search."""
        batch = self.batch()
        scores = model.get_normalized_probs(model(**batch["net_input"]), True)
        options = Namespace(beam=2, max_len_a=0, max_len_b=5, min_len=1)
        generator = self.task.build_generator([model], options)
        found = self.task.inference_step(generator, [model], batch)
        return [scores, *(h[name] for beam in found for h in beam for name in ("tokens", "score"))]

    @torch.no_grad()
    def run(self, path):
        with torch.enable_grad():
            self.train_a_step()
        model = self.come_back(path).double().eval()
        inputs = self.batch()["net_input"]
        if "prev_output_tokens" not in inputs:
            check_pieces(model, inputs["src_tokens"])
        else:
            encoder_out = model.encoder(inputs["src_tokens"], inputs["src_lengths"])
            check_pieces(model, inputs["prev_output_tokens"], encoder_out)


class LanguageModel(Translation):
    options = "-a mega_lm --task language_modeling"

    def make_task(self):
        return LanguageModelingTask(self.cfg.task, DICTIONARY)

    def batch(self):
        target = self.rows()
        return sample(shifted(target), target)


def check_pieces(model, tokens, encoder_out=None):
    """Reading in pieces gives what one parallel pass gives, where no kernel is truncated."""
    for module in model.modules():
        if hasattr(module, "truncation"):
            module.truncation = None
    expected, _ = model.decoder(tokens, encoder_out=encoder_out)
    state, parts, end = {}, [], 0
    while end < tokens.size(1):
        end = min(end + 1 + len(parts) * 2, tokens.size(1))
        parts.append(
            model.decoder(tokens[:, :end], encoder_out=encoder_out, incremental_state=state)[0]
        )
    keep = tokens.ne(DICTIONARY.pad())
    assert_close(torch.cat(parts, dim=1)[keep], expected[keep], 1e-8)


class MaskedLM(Trial):
    options = "--task masked_lm --criterion masked_lm -a mega_masked_lm --tokens-per-sample 16"

    def make_task(self):
        return Task(
            self.cfg.task,
            source_dictionary=DICTIONARY,
            target_dictionary=DICTIONARY,
            max_positions=lambda: self.cfg.task.tokens_per_sample,
        )

    def batch(self):
        batch = sample(self.rows(), self.rows())
        hidden = batch["target"].ne(DICTIONARY.pad()) & (batch["target"] % 2 == 0)
        batch["target"] = batch["target"].where(hidden, DICTIONARY.pad())
        return batch

    def predict(self, model):
        return [model(self.batch()["net_input"]["src_tokens"])[0]]


class Sentences(MaskedLM):
    options = (
        "--task sentence_prediction --criterion sentence_prediction -a mega_masked_lm "
        "--num-classes 3 --max-positions 16"
    )

    def make_task(self):
        return SentencePredictionTask(self.cfg.task, DICTIONARY, DICTIONARY)

    def batch(self):
        return {**sample(self.rows(), self.rows()), "target": torch.tensor([[0], [1], [2], [0]])}

    def predict(self, model):
        tokens = self.batch()["net_input"]["src_tokens"]
        return [model(tokens, classification_head_name=HEAD)[0]]


class Texts(Trial):
    """Classes of texts; ``documents`` in a sample."""

    options = "--task lra-text -a lra --criterion lra_cross_entropy"
    words, documents = DICTIONARY, 1

    def make_task(self):
        return Task(self.cfg.task, source_dictionary=self.words, documents=self.documents)

    def batch(self):
        first, second = self.rows(), self.rows(seed=4)
        inputs = classification.batch(first, second if self.documents == 2 else None)
        classes = torch.arange(4) % self.cfg.model.sentence_class_num
        return {**inputs, "target": classes, "nsentences": 4, "ntokens": sum(map(len, first))}

    def predict(self, model):
        return [model(self.batch())["encoder_out"]]


class Pairs(Texts):
    documents = 2


class Speech(Texts):
    options = "--task speech_commands -a sc_raw --criterion lra_cross_entropy"
    words = None

    def rows(self, longest=None, seed=3):
        lengths = [len(row) for row in super().rows(longest, seed)]
        return [row.float() for row in classification.numbers(*lengths, seed=seed)]


class Pictures(Trial):
    options = "--task image_folder -a mega_tiny_patch16_224 --criterion cross_entropy"

    def make_task(self):
        return Task(self.cfg.task, class_names=["a", "b", "c"])

    def batch(self):
        size, target = self.cfg.model.image_size, torch.tensor([0, 1, 2, 0])
        images = randn(4, 3, size, size, dtype=torch.float32)
        return {"net_input": {"images": images}, "target": target, "nsentences": 4, "ntokens": 4}

    def predict(self, model):
        return [model(self.batch()["net_input"]["images"])]


KINDS = {
    "mega": (Translation, config.MegaConfig),
    "mega_lm": (LanguageModel, config.MegaLanguageModelConfig),
    "mega_masked_lm": (MaskedLM, config.MaskedLMConfig),
    "sentences": (Sentences, config.MaskedLMConfig),
    "texts": (Texts, config.ClassifierConfig),
    "pairs": (Pairs, config.ClassifierConfig),
    "speech": (Speech, config.ClassifierConfig),
    "pictures": (Pictures, config.ImageNetConfig),
}


def quietly(run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run()
