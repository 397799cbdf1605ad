"""Choose how datasets of texts are tokenised: as chat turns, or unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from app.domain.spec import RewardJobSpec
from app.domain.spec_problems import SpecProblem

#: ``chat``: the prompt is a user turn and the reply an assistant turn. ``raw``: both are
#: concatenated unchanged.
TextFormat = Literal["chat", "raw"]


@dataclass(frozen=True)
class DataForm:
    """Form of the rows of a job's datasets."""

    has_texts: bool = False
    has_conversations: bool = False
    texts_have_prompts: bool = True
    """Whether every row of text has its own prompt."""
    texts_are_rendered: bool = False
    """Whether the texts already contain special tokens of a chat template."""
    variables: tuple[Mapping[str, Any], ...] = field(default=())
    """Variables of the chat template that the datasets set, the training dataset first."""

    @classmethod
    def of(cls, *summaries: Mapping[str, Any]) -> Self:
        """Return the form of datasets with these ``DatasetSummary`` documents."""
        texts = [each for each in summaries if each["format"] == "text"]
        return cls(
            has_texts=bool(texts),
            has_conversations=len(texts) < len(summaries),
            texts_have_prompts=all(each["prompt"] == "explicit" for each in texts),
            # Summaries of earlier versions do not have this key.
            texts_are_rendered=any(each.get("is_rendered", False) for each in texts),
            variables=tuple(each.get("chat_template_kwargs", {}) for each in summaries),
        )

    def template_variables(self, spec: RewardJobSpec) -> dict[str, Any]:
        """Return the variables of the adapter's chat template: the training data's and the job's.

        Those of the job take precedence.
        """
        return {**(self.variables[0] if self.variables else {}), **_own_variables(spec)}

    def text_format(self, spec: RewardJobSpec, *, has_template: bool) -> TextFormat | None:
        """Return how texts are tokenised; None for datasets of messages.

        Texts become chat turns if the base model has a chat template or another dataset of the job
        holds messages, and if all rows have prompts and are not rendered yet.
        """
        if not self.has_texts:
            return None
        if (asked := spec.training.text_format) != "auto":
            return asked
        if not self.texts_have_prompts or self.texts_are_rendered:
            return "raw"
        return "chat" if has_template or self.has_conversations else "raw"

    def problems(self, spec: RewardJobSpec) -> Iterator[SpecProblem]:
        """Yield the problems of the tokenisation that do not depend on the base model."""
        yield from self._variable_problems(spec)
        asked = spec.training.text_format
        if not self.has_texts and asked == "raw":
            yield SpecProblem(
                "/training/text_format",
                "text_format_unused",
                "the dataset holds messages, which only a chat template can render",
                "Remove the field.",
            )
        elif self.has_texts and asked == "chat" and not self.texts_have_prompts:
            yield SpecProblem(
                "/training/text_format",
                "prompt_missing",
                "some rows of the dataset have no prompt, so it is unknown where the reply begins",
                'Use "raw", or upload the prompts as a column of their own.',
            )
        elif self.has_conversations and self.text_format(spec, has_template=True) == "raw":
            yield SpecProblem(
                "/eval_dataset" if isinstance(spec.eval_dataset, str) else "/eval_datasets",
                "format_differs",
                "one dataset holds texts that are tokenised as they are, another one messages",
                'Use datasets of the same format, or texts with prompts and "text_format": "chat".',
            )

    def _variable_problems(self, spec: RewardJobSpec) -> Iterator[SpecProblem]:
        """Yield variables that the datasets set differently: an adapter has one chat template."""
        if self.text_format(spec, has_template=True) == "raw":
            return
        ours = self.template_variables(spec)
        for evaluation in self.variables[1:]:
            for name, value in sorted(evaluation.items()):
                if name in _own_variables(spec) or _is_same(ours.get(name), value):
                    continue
                found = f"is {json.dumps(ours[name])}" if name in ours else "is not set"
                yield SpecProblem(
                    f"/training/chat_template_kwargs/{name}",
                    "template_variables_differ",
                    f"the evaluation dataset sets {name} to {json.dumps(value)}, which {found} in "
                    "the training dataset",
                    "Set the variable in training.chat_template_kwargs, for both.",
                )


def _own_variables(spec: RewardJobSpec) -> Mapping[str, Any]:
    return spec.training.chat_template_kwargs


def _is_same(one: object, other: object) -> bool:
    """Whether two values are equal and of one type: true is not 1."""
    return type(one) is type(other) and one == other
