"""Continuing prompts: fairseq's generator, with prompts that are read in parallel."""

import copy
import math
from typing import Dict, List, Optional

import torch
from fairseq.search import BeamSearch, Sampling
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from torch import Tensor

from ..models.mega_lm import MegaLanguageModel
from ..models.state import DecodingState
from ..models.streaming import read_segments, target_scores


class PromptTaskMixin:
    """Gives a language modeling task the ``PromptGenerator`` for models that can use it."""

    def build_generator(self, models, args, **kwargs):
        """As fairseq's.

        Raises:
            ValueError: where alignments are asked for.
        """
        if getattr(args, "print_alignment", None):
            raise ValueError(
                f"--print-alignment is {args.print_alignment}: a language model has no source to "
                "align with; leave it out"
            )
        if all(isinstance(model, MegaLanguageModel) for model in models):
            kwargs.setdefault("seq_gen_cls", PromptGenerator)
        return super().build_generator(models, args, **kwargs)


class PromptGenerator(SequenceGenerator):
    """Continues prompts as fairseq's generator does, with the same hypotheses and scores.

    fairseq forces the tokens of a prompt one by one, each in a step of the models and the search.
    Here the models read the prompts of a batch up to the end of the shortest, and the search starts
    with its last token; what longer ones have more is forced as ever. A prompt leaves nothing to
    choose, so this changes no choice; only the random numbers that fairseq's sampling spends on
    forced tokens are not drawn.

    Args:
        models: ``MegaLanguageModel``s, an ensemble if several.
        tgt_dict, **kwargs: as fairseq's generator has them.
    """

    def __init__(self, models: List[MegaLanguageModel], tgt_dict, **kwargs):
        super().__init__(PromptedEnsemble(models), tgt_dict, **kwargs)

    def _generate(
        self,
        sample: Dict[str, Dict[str, Tensor]],
        prefix_tokens: Optional[Tensor] = None,
        constraints: Optional[Tensor] = None,
        bos_token: Optional[int] = None,
    ) -> List[List[Dict[str, Tensor]]]:
        """As fairseq's: the hypotheses of each sentence, which start with its prompt.

        Args:
            sample: a batch of ``B`` sentences.
            prefix_tokens: the prompts ``(B, T)``, padded on the right.
            bos_token: what comes before them; the end of a sentence if None.

        Raises:
            ValueError: where a prompt is longer than a text may be.
        """
        if prefix_tokens is not None and prefix_tokens[:, :1].eq(self.eos).any():
            return self._generate_but_empty(sample, prefix_tokens, constraints, bos_token)
        if not self._chooses_without_prompt():
            return super()._generate(sample, prefix_tokens, constraints, bos_token)
        src_tokens = sample["net_input"]["src_tokens"]
        bos = self.eos if bos_token is None else bos_token
        text = src_tokens.new_full((src_tokens.size(0), 1), bos)
        if prefix_tokens is not None:
            text = torch.cat([text, prefix_tokens], dim=1)  # (B, 1 + T)
        lengths = self._prompt_lengths(text[:, 1:])
        longest_text = min(
            int(self.max_len_a * src_tokens.size(1) + self.max_len_b), self.max_len - 1
        )
        self._check_room(int(lengths.max()), longest_text)

        # The last common token is left for the search to force, so that its beams part as ever. It
        # stands where fairseq puts bos_token: in the first column of its rows.
        read = max(int(lengths.min()) - 1, 0)
        scores = self.model.read(text[:, : read + 1], self.beam_size, self.temperature)
        prompt = text[:, 1 : read + 1]
        scores -= self.unk_penalty * prompt.eq(self.unk)
        continuations = super(PromptGenerator, self._after(read, longest_text))._generate(
            sample,
            text[:, read + 1 :],
            constraints,
            bos_token=text[:, read].repeat_interleave(self.beam_size),
        )
        return [self._with_prompt(*each) for each in zip(prompt, scores, continuations)]

    def _generate_but_empty(
        self, sample, prefix_tokens: Tensor, constraints, bos_token
    ) -> List[List[Dict[str, Tensor]]]:
        """``_generate`` where texts are over with the first of ``prefix_tokens (B, T)``.

        Beams part at the first token; where it is forced to end the text, fairseq waits in vain for
        as many hypotheses as beams. Such a text has one.
        """
        empty = prefix_tokens[:, 0].eq(self.eos)
        others = prefix_tokens.masked_fill(empty.unsqueeze(1), self.pad)
        hypotheses = self._generate(sample, others, constraints, bos_token)
        ends = prefix_tokens[empty, :1]  # (E, 1)
        starts = torch.full_like(ends, self.eos if bos_token is None else bos_token)
        scores = self.model.score(torch.cat([starts, ends], dim=1), self.temperature)
        for row, tokens, score in zip(empty.nonzero(), ends, scores):
            end = {"tokens": tokens, "positional_scores": score, "score": score.sum()}
            hypotheses[row] = [{**hypotheses[row][0], **end}]
        return hypotheses

    def _chooses_without_prompt(self) -> bool:
        """Other searches, the blocking of n-grams and a second language model look at the tokens of
        the prompt themselves, and --match-source-len counts them: with these, fairseq's generator
        goes through them one by one."""
        plain = type(self.search) in (BeamSearch, Sampling) and not self.match_source_len
        return plain and self.repeat_ngram_blocker is None and self.lm_model is None

    def _prompt_lengths(self, prompts: Tensor) -> Tensor:
        """The tokens of each of ``prompts (B, T)`` before the first that ends it: ``(B,)``."""
        goes_on = prompts.ne(self.pad) & prompts.ne(self.eos)
        return goes_on.long().cumprod(dim=1).sum(dim=1)

    def _check_room(self, prompt: int, text: int) -> None:
        if prompt <= text:
            return
        if text == self.max_len - 1:
            raise ValueError(
                f"a prompt of {prompt} tokens is too long for the model's {self.max_len} positions "
                "(--max-target-positions); shorten it, or train with --rel-pos-bias rotary or "
                "--decoder-chunk-size, which have no limit"
            )
        raise ValueError(
            f"a prompt of {prompt} tokens does not fit in {text}, which --max-len-a "
            f"{self.max_len_a} and --max-len-b {self.max_len_b} allow for prompt and continuation "
            "together; with --max-len-a 1, --max-len-b is for the continuation alone"
        )

    def _after(self, read: int, longest_text: int) -> "PromptGenerator":
        """This generator for what comes after ``read`` tokens: lengths count from there."""
        rest = copy.copy(self)
        rest.max_len_a, rest.max_len_b = 0, longest_text - read
        rest.min_len = self.min_len - read
        return rest

    def _with_prompt(self, prompt: Tensor, scores: Tensor, continuations: List[Dict]) -> List[Dict]:
        """Hypotheses from ``prompt (T,)``, ``scores (T,)`` and what comes after, best first."""
        for hypothesis in continuations:
            scores_of_all = torch.cat([scores, hypothesis["positional_scores"]])
            score = scores_of_all.sum()
            if self.normalize_scores:
                score /= len(scores_of_all) ** self.len_penalty
            hypothesis["tokens"] = torch.cat([prompt, hypothesis["tokens"]])
            hypothesis["positional_scores"] = scores_of_all
            hypothesis["score"] = score
        return sorted(continuations, key=lambda hypothesis: hypothesis["score"], reverse=True)


class PromptedEnsemble(EnsembleModel):
    """An ensemble whose next generation goes on from a text that it has read."""

    def __init__(self, models: List[MegaLanguageModel]):
        super().__init__(models)
        self._states: List[DecodingState] = []

    def read(self, tokens: Tensor, beam_size: int, temperature: float) -> Tensor:
        """Reads ``tokens (B, T)`` but for the last of each row, which the generation gives.

        Args:
            beam_size: rows that the generation has of each row.
            temperature: divides the logits.

        Returns:
            log-probabilities ``(B, T - 1)`` of all tokens but the first.
        """
        rows = torch.arange(tokens.size(0), device=tokens.device).repeat_interleave(beam_size)
        self._states = [model.decoder.new_state() for model in self.models]
        log_probs = []
        for model, state in zip(self.models, self._states):
            log_probs.append(_read(model, tokens, state, temperature))
            state.reorder(rows)
        return torch.logsumexp(torch.stack(log_probs), dim=0) - math.log(self.models_size)

    def score(self, tokens: Tensor, temperature: float) -> Tensor:
        """As ``read``, of texts with which no generation goes on."""
        log_probs = self.read(tokens, 1, temperature)
        self._states = []
        return log_probs

    def forward_decoder(
        self, tokens: Tensor, encoder_outs, incremental_states: List[Dict], temperature: float = 1.0
    ):
        for incremental_state, state in zip(incremental_states, self._states):
            state.enter_into(incremental_state)
        self._states = []  # handed over
        return super().forward_decoder(tokens, encoder_outs, incremental_states, temperature)


def _read(
    model: MegaLanguageModel, tokens: Tensor, state: DecodingState, temperature: float
) -> Tensor:
    """Reads all but the last of ``tokens (B, T)``.

    Returns:
        log-probabilities ``(B, T - 1)`` of all but the first.
    """
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    segment = model.segment_length or max(inputs.size(1), 1)
    log_probs = [torch.empty(tokens.size(0), 0, device=tokens.device)]
    parts = read_segments(model.decoder, inputs, segment, state)
    for features, words in zip(parts, targets.split(segment, dim=1)):
        # As good as dividing the scores: they are linear in the features.
        log_probs.append(target_scores(model.decoder, features / temperature, words))
    return torch.cat(log_probs, dim=1)
