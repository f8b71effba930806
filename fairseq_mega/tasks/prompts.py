"""Prompts to continue: fairseq's generator, for which the models read them in parallel."""

import copy
import math
from typing import Dict, List, Optional

import torch
from fairseq.search import BeamSearch, Sampling
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from torch import Tensor

from ..models.mega_lm import MegaLanguageModel
from ..models.state import KEY, DecodingState
from ..models.streaming import read_segments, target_scores


class PromptGenerator(SequenceGenerator):
    """Continues prompts with the hypotheses and scores of fairseq's generator.

    fairseq forces the tokens of a prompt one by one, each in a step of the models and the search.
    Here the models read the prompts of a batch in parallel, up to the end of the shortest, and the
    search starts with its last token; it forces the rest of longer prompts. A forced token leaves
    nothing to choose, so this changes no choice, except that fairseq's sampling draws random
    numbers for forced tokens, too.

    Args:
        models: ``MegaLanguageModel``s, an ensemble if there are several.
        tgt_dict, **kwargs: see ``SequenceGenerator``.
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
        """The hypotheses of each sentence, which start with its prompt.

        Args:
            sample: a batch of ``B`` sentences.
            prefix_tokens: the prompts ``(B, T)``, padded on the right.
            bos_token: the token before them (default: the end of a sentence).

        Raises:
            ValueError: if a prompt is longer than a text may be.
        """
        if prefix_tokens is not None and prefix_tokens[:, :1].eq(self.eos).any():
            return self._generate_with_empty(sample, prefix_tokens, constraints, bos_token)
        if not self._chooses_without_prompt():
            return super()._generate(sample, prefix_tokens, constraints, bos_token)
        src_tokens = sample["net_input"]["src_tokens"]
        bos = self.eos if bos_token is None else bos_token
        text = src_tokens.new_full((src_tokens.size(0), 1), bos)
        if prefix_tokens is not None:
            text = torch.cat([text, prefix_tokens], dim=1)  # (B, 1 + T)
        prompt = text[:, 1:]
        goes_on = prompt.ne(self.pad) & prompt.ne(self.eos)
        lengths = goes_on.long().cumprod(dim=1).sum(dim=1)  # (B,)
        longest_text = min(
            int(self.max_len_a * src_tokens.size(1) + self.max_len_b), self.max_len - 1
        )
        if lengths.max() > longest_text:
            limit = (
                f"the {longest_text} tokens that --max-len-a {self.max_len_a} and --max-len-b "
                f"{self.max_len_b} allow for prompt and continuation: give --max-len-a 1, with "
                "which --max-len-b is for the continuation alone"
            )
            if longest_text == self.max_len - 1:
                limit = (
                    f"the model's {self.max_len} positions (--max-target-positions): shorten it, "
                    "or train with --rel-pos-bias rotary or --decoder-chunk-size, which have no "
                    "limit"
                )
            raise ValueError(f"a prompt of {int(lengths.max())} tokens is too long for {limit}")

        # The search forces the last common token, which makes its beams part as fairseq's do. The
        # token takes the place of bos_token, in the first column of the rows.
        read = max(int(lengths.min()) - 1, 0)
        scores = self.model.read(text[:, : read + 1], self.temperature, self.beam_size)
        prompt = prompt[:, :read]
        scores -= self.unk_penalty * prompt.eq(self.unk)
        rest = copy.copy(self)  # which counts lengths from there
        rest.max_len_a, rest.max_len_b = 0, longest_text - read
        rest.min_len = self.min_len - read
        continuations = super(PromptGenerator, rest)._generate(
            sample,
            text[:, read + 1 :],
            constraints,
            bos_token=text[:, read].repeat_interleave(self.beam_size),
        )
        return [self._with_prompt(*each) for each in zip(prompt, scores, continuations)]

    def _generate_with_empty(
        self, sample, prefix_tokens: Tensor, constraints, bos_token
    ) -> List[List[Dict[str, Tensor]]]:
        """Handles rows whose prompt is empty, that is, whose first prefix token is already
        ``</s>``: they have one hypothesis, for which fairseq's beam search would not end."""
        empty = prefix_tokens[:, 0].eq(self.eos)
        others = prefix_tokens.masked_fill(empty.unsqueeze(1), self.pad)
        hypotheses = self._generate(sample, others, constraints, bos_token)
        ends = prefix_tokens[empty, :1]  # (E, 1)
        starts = torch.full_like(ends, self.eos if bos_token is None else bos_token)
        scores = self.model.read(torch.cat([starts, ends], dim=1), self.temperature)
        for row, tokens, score in zip(empty.nonzero(), ends, scores):
            end = {"tokens": tokens, "positional_scores": score, "score": score.sum()}
            hypotheses[row] = [{**hypotheses[row][0], **end}]
        return hypotheses

    def _chooses_without_prompt(self) -> bool:
        """Whether the search never looks at the prompt: others search in it (diverse beams, n-gram
        blocking, a second language model) or count it (--match-source-len)."""
        plain = type(self.search) in (BeamSearch, Sampling) and not self.match_source_len
        return plain and self.repeat_ngram_blocker is None and self.lm_model is None

    def _with_prompt(self, prompt: Tensor, scores: Tensor, continuations: List[Dict]) -> List[Dict]:
        """Joins ``prompt (T,)`` with ``scores (T,)`` and its continuations, best first."""
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
    """An ensemble whose next generation continues a text that it has read."""

    def __init__(self, models: List[MegaLanguageModel]):
        super().__init__(models)
        self._states: List[DecodingState] = []

    def read(self, tokens: Tensor, temperature: float, beam: int = 0) -> Tensor:
        """Reads all but the last of ``tokens (B, T)``, with which the generation starts.

        Args:
            temperature: divides the logits.
            beam: the number of rows that the generation has for each row; 0 for no generation.

        Returns:
            log-probabilities ``(B, T - 1)`` of all tokens but the first.
        """
        rows = torch.arange(tokens.size(0), device=tokens.device).repeat_interleave(beam)
        self._states, log_probs = [], []
        for model in self.models:
            state = model.decoder.new_state()
            log_probs.append(_read(model, tokens, state, temperature))
            if beam > 0:
                state.reorder(rows)
                self._states.append(state)
        return torch.logsumexp(torch.stack(log_probs), dim=0) - math.log(self.models_size)

    def forward_decoder(
        self, tokens: Tensor, encoder_outs, incremental_states: List[Dict], temperature: float = 1.0
    ):
        for model, incremental_state, state in zip(self.models, incremental_states, self._states):
            model.decoder.set_incremental_state(incremental_state, KEY, state)
        self._states = []  # handed over
        return super().forward_decoder(tokens, encoder_outs, incremental_states, temperature)


def _read(
    model: MegaLanguageModel, tokens: Tensor, state: DecodingState, temperature: float
) -> Tensor:
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    segment = model.segment_length or max(inputs.size(1), 1)
    log_probs = [torch.empty(tokens.size(0), 0, device=tokens.device)]
    parts = read_segments(model.decoder, inputs, segment, state)
    for features, words in zip(parts, targets.split(segment, dim=1)):
        # The logits are linear in the features: dividing either is the same.
        log_probs.append(target_scores(model.decoder, features / temperature, words))
    return torch.cat(log_probs, dim=1)
