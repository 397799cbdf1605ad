"""Choose the pad token.

The reward of a decoder is read at the last token that is not the pad token. If texts ended in the
pad token, the reward would be read at an earlier token, and after a reload at yet another one.
"""

from __future__ import annotations

from app.domain.plan import BaseModelFacts
from app.domain.spec_problems import SpecRejectedError
from app.domain.training_spec import TrainingSpec

#: Special tokens that a hint lists.
_LISTED = 20


def choose_pad_token(
    training: TrainingSpec, facts: BaseModelFacts, *, is_raw: bool
) -> tuple[str, int]:
    """Return the pad token and its id: the first of these tokens in which no text ends.

    1. ``training.pad_token``, which must be a special token of the model
    2. the tokenizer's own pad token, unless it is EOS
    3. a token that the model does not use: the first class of ``spare_pad_tokens`` in
       ``worker.reward_model.special_tokens`` that the tokenizer has
    4. EOS, for conversations that do not end in it

    ``is_raw`` means that the dataset has texts that are tokenised unchanged, which end in EOS. A
    pad token needs an embedding row. The last token of conversations is known for the chat template
    of the model; with another template the worker checks every rendered conversation.

    Raises:
        SpecRejectedError: There is no such token, or the requested token cannot be used.
    """
    template = training.chat_template
    # The last token of conversations is known only for the template of the model.
    final = facts.eos_token_id if is_raw else None if template else facts.final_token_id
    if training.pad_token is not None:
        return _requested(training.pad_token, facts, final)
    own, own_id = facts.pad_token, facts.pad_token_id
    ends_texts = own_id in (facts.eos_token_id, final)
    if own is not None and own_id is not None and own_id < facts.vocab_rows and not ends_texts:
        return own, own_id
    spare = [
        (i, t)
        for t, i in facts.spare_pad_tokens.items()
        if i != final and t not in (template or "")
    ]
    if spare:
        return min(spare)[1], min(spare)[0]
    eos, eos_id = facts.eos_token, facts.eos_token_id
    if eos is None or eos_id is None:
        raise SpecRejectedError.of(
            "/base_model",
            "no_pad_token",
            "the tokenizer has neither a pad token nor an EOS token nor an unused special token",
            "Ask the operator to add a pad token to the model's tokenizer.",
        )
    if eos_id != final and eos_id < facts.vocab_rows:
        return eos, eos_id
    raise _pad_is_eos(eos)


def _pad_is_eos(eos: str) -> SpecRejectedError:
    return SpecRejectedError.of(
        "/base_model",
        "pad_is_eos",
        f"the only pad token of this model is its EOS token ({eos!r}), in which every text ends, "
        "so the reward would be read one token early, and at another one after a reload. The cause "
        "is the model and not the data",
        "Set training.pad_token to a special token in which no text ends, ask the operator to add "
        "a pad token to the model's tokenizer, or use another model.",
    )


def _requested(token: str, facts: BaseModelFacts, final: int | None) -> tuple[str, int]:
    known = {**facts.special_tokens, **facts.spare_pad_tokens}
    if facts.pad_token is not None and facts.pad_token_id is not None:
        known[facts.pad_token] = facts.pad_token_id
    usable = [t for t, i in known.items() if i != final and i < facts.vocab_rows]
    hint = f"Use one of {', '.join(usable[:_LISTED])}." if usable else "Remove it."
    if token not in known:
        raise SpecRejectedError.of(
            "/training/pad_token",
            "pad_token_unknown",
            f"{token!r} is not a special token of {facts.architecture} that has an embedding row",
            hint,
        )
    if token not in usable:
        raise SpecRejectedError.of(
            "/training/pad_token",
            "pad_token_ends_text",
            f"every text ends in {token!r}, so the reward would be read one token early",
            hint,
        )
    return token, known[token]
