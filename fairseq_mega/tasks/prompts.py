"""fairseq's generator for prompts, which the models read in parallel."""

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
    Here the models read the prompts of a batch in parallel up to the last token of the shortest
    one, where the search starts; it forces the rest of longer prompts. The hypotheses are the same,
    except in sampling, for which fairseq also draws random numbers for forced tokens.
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
        """Returns the hypotheses for each prompt of ``prefix_tokens (B, T)``, padded on the right.
        ``bos_token`` (default: ``</s>``) precedes the prompts."""
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
                f"{self.max_len_b} allow for prompt and continuation: give --max-len-a 1, "
                "so that --max-len-b counts the continuation alone"
            )
            if longest_text == self.max_len - 1:
                limit = (
                    f"the model's {self.max_len} positions (--max-target-positions): shorten it, "
                    "or train with --rel-pos-bias rotary or --decoder-chunk-size"
                )
            raise ValueError(f"a prompt of {int(lengths.max())} tokens is too long for {limit}")

        # The search starts from the last token that all prompts have, instead of from bos_token,
        # so that its beams diverge where fairseq's do.
        read = max(int(lengths.min()) - 1, 0)
        scores = self.model.read(text[:, : read + 1], self.temperature, self.beam_size)
        prompt = prompt[:, :read]
        scores -= self.unk_penalty * prompt.eq(self.unk)
        rest = copy.copy(self)  # counts lengths from there
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
        """Gives one hypothesis to each row with an empty prompt, whose first prefix token is
        ``</s>``; fairseq's beam search would not end for it."""
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
        """Returns whether the search ignores the prompt. Diverse beams, n-gram blocking and a
        second language model search in it, and --match-source-len counts it."""
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
    """An ensemble that continues the text it has read."""

    def __init__(self, models: List[MegaLanguageModel]):
        super().__init__(models)
        self._states: List[DecodingState] = []

    def read(self, tokens: Tensor, temperature: float, beam: int = 0) -> Tensor:
        """Reads all but the last of ``tokens (B, T)``, from which the next generation continues
        with ``beam`` rows for each row, or not at all if 0.

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
        # The logits are linear in the features.
        log_probs.append(target_scores(model.decoder, features / temperature, words))
    return torch.cat(log_probs, dim=1)
