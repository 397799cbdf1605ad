"""Inspect a base model without loading its weights: find the facts for a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from app.domain.plan import BaseModelFacts
from app.domain.training_spec import MAX_TEMPLATE_BYTES
from worker.reward_model.base_tokenizer import differs_from_file, load_base_tokenizer
from worker.reward_model.errors import unsupported_model
from worker.reward_model.model_config import load_config
from worker.reward_model.process_limits import TokenizerTooCostlyError, tokenizer_limits
from worker.reward_model.special_tokens import (
    conversation_ids,
    spare_pad_tokens,
    special_tokens,
    tokens_around,
    without_rows,
)
from worker.reward_model.stored_weights import stored_dtype, stored_shapes
from worker.trainer.inspection import modules
from worker.trainer.inspection.padding_check import UNSUPPORTED_ERRORS
from worker.trainer.inspection.supported_config import check_padding, read_supported_config, short
from worker.trainer.inspection.trained_head import find_trained_head

#: Limits of the tokenizer while it is loaded and encodes some sample texts. A vocabulary of
#: 250,000 tokens takes 15 s.
TOKENIZER_SECONDS = 120.0
TOKENIZER_BYTES, TOKENIZER_BYTES_PER_FILE_BYTE = 1 << 30, 20
#: Decoders whose head is not called ``score``.
_OTHER_DECODERS = frozenset({"ctrl", "modernbert-decoder"})


def inspect_base_model(
    model_dir: Path, *, revision: str | None, chat_template: str | None, digest: str
) -> BaseModelFacts:
    """Return the facts about the base model in ``model_dir``. Takes seconds and loads no weights.

    ``chat_template`` is that of the catalogue entry and overrides the tokenizer's. ``digest`` is
    the digest of the model's files, which the caller has computed.

    Raises:
        TrainerError: model_unsupported, with what was found and what to use instead.
    """
    config = read_supported_config(model_dir)
    dtype = stored_dtype(model_dir)
    model, absent, unexpected = load_on_meta(model_dir)
    check_padding(config, type(model).__name__)
    tokenizer, from_file = _load_tokenizer(model_dir)
    template = _chat_template(tokenizer, chat_template)
    new = modules.new_modules(model, absent)
    linear = _linear_modules(model, new)
    head = find_trained_head(model, absent, unexpected, stored_shapes(model_dir))
    rows = _embedding_rows(model)
    return BaseModelFacts(
        model_type=config.model_type,
        architecture=type(model).__name__,
        digest=digest,
        revision=revision,
        parameter_count=model.num_parameters(),
        hidden_size=config.get_text_config().hidden_size,
        layer_count=config.get_text_config().num_hidden_layers,
        vocab_rows=rows,
        max_positions=max_positions(model),
        new_modules=new,
        head_tensors=head.tensors,
        unused_heads=head.unused,
        modules=modules.parameters_by_module(model),
        linear_modules=linear,
        attention_modules=modules.attention_modules(linear),
        is_mixture_of_experts=modules.is_mixture_of_experts(model),
        is_causal=hasattr(model, "score") or config.model_type in _OTHER_DECODERS,
        supports_gradient_checkpointing=bool(model.supports_gradient_checkpointing),
        **_token_facts(tokenizer, template, rows),
        spare_pad_tokens=spare_pad_tokens(tokenizer, config, rows, template, model_dir),
        chat_template=template,
        tokenizer_from_file=from_file,
        dtype=dtype,
    )


def _token_facts(
    tokenizer: PreTrainedTokenizerBase, template: str | None, rows: int
) -> dict[str, Any]:
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    conversation = conversation_ids(tokenizer, template)
    return {
        "pad_token": None if pad is None else str(tokenizer.pad_token),
        "pad_token_id": pad,
        "eos_token": None if eos is None else str(tokenizer.eos_token),
        "eos_token_id": eos,
        "special_tokens": special_tokens(tokenizer, rows),
        "final_token_id": conversation[-1] if conversation else None,
        "unembedded_in_texts": without_rows(tokenizer, tokenizer("a")["input_ids"], rows),
        "unembedded_in_conversations": without_rows(tokenizer, conversation, rows),
        "tokens_around": tokens_around(tokenizer),
        "max_token_id": max(tokenizer.get_vocab().values()),
    }


def load_on_meta(model_dir: Path) -> tuple[PreTrainedModel, set[str], set[str]]:
    """Return the one-output classifier on the meta device, and keys of parameters.

    The first keys are those that the model's files lack or have in another shape, the second ones
    those that the classifier lacks.

    ``from_pretrained`` reports what is missing. It handles the prefixes, renamings and fusions
    between the stored weights and a class, unlike a comparison of names.
    """
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            str(model_dir),
            config=load_config(model_dir),
            dtype=torch.float32,  # that of config.json may be one without a classifier, as int8
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except UNSUPPORTED_ERRORS as error:
        raise unsupported_model(
            f"transformers {transformers.__version__} cannot build the model: {short(error)}; the "
            "operator can correct its config.json, or list a model of another type"
        ) from error
    modules.check_no_ignored_weights(model, info["unexpected_keys"])
    absent = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    return model, absent, set(info["unexpected_keys"])


def max_positions(model: PreTrainedModel) -> int | None:
    """Return the most tokens that a text may have; None without a limit (as with ALiBi).

    It is the configuration's number, less the positions that a position table reserves for padding:
    RoBERTa counts from ``padding_idx + 1``, so 514 rows are 512 positions. It is lower where a
    longer text in the batch would change a text's score (longrope: 0.115 became 0.108).
    """
    config = model.config.get_text_config()
    stated = getattr(config, "max_position_embeddings", None)
    limits = [stated] if isinstance(stated, int) and stated > 0 else []
    limits += _batch_independent_lengths(config)
    for path, module in model.named_modules():
        if not isinstance(module, nn.Embedding):
            continue
        if "position_embeddings" in path.rpartition(".")[2] and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min(limits, default=None)


def _batch_independent_lengths(config: PreTrainedConfig) -> list[int]:
    """Return the lengths above which a text changes the scores of other texts."""
    rope = getattr(config, "rope_parameters", None) or {}
    limits = [
        parameters["original_max_position_embeddings"]
        for parameters in (rope, *rope.values())  # some configurations have a set per layer type
        if isinstance(parameters, dict) and parameters.get("rope_type") == "longrope"
    ]
    if getattr(config, "attention_type", None) == "block_sparse":
        # BigBird switches to full attention, for good, at the first batch that is shorter.
        limits.append((5 + 2 * config.num_random_blocks) * config.block_size)
    return limits


def _linear_modules(model: PreTrainedModel, new: list[str]) -> dict[str, tuple[int, int]]:
    if linear := modules.linear_modules(model, new):
        return linear
    raise unsupported_model(
        f"{type(model).__name__} has no linear layer that LoRA could adapt; use another model"
    )


def _embedding_rows(model: PreTrainedModel) -> int:
    embedding = model.get_input_embeddings()
    rows = getattr(embedding, "num_embeddings", None) or model.config.get_text_config().vocab_size
    return int(rows)


def _load_tokenizer(model_dir: Path) -> tuple[PreTrainedTokenizerBase, bool]:
    """Return the tokenizer, and whether only tokenizer.json gives the right one."""
    sizes = (path.stat().st_size for path in model_dir.iterdir() if path.suffix != ".safetensors")
    memory_bytes = TOKENIZER_BYTES + TOKENIZER_BYTES_PER_FILE_BYTE * sum(sizes)
    try:
        with tokenizer_limits(TOKENIZER_SECONDS, memory_bytes):
            tokenizer = load_base_tokenizer(model_dir, from_file=False)
            if from_file := differs_from_file(tokenizer, model_dir):
                tokenizer = load_base_tokenizer(model_dir, from_file=True)
    except TokenizerTooCostlyError as error:
        raise unsupported_model(f"the base model's tokenizer {error}") from error
    except UNSUPPORTED_ERRORS as error:
        raise unsupported_model(
            f"the base model's tokenizer cannot be loaded: {short(error)}"
        ) from error
    if not tokenizer.get_vocab():
        raise unsupported_model(
            "the base model's tokenizer has no vocabulary; add the tokenizer's files"
        )
    return tokenizer, from_file


def _chat_template(tokenizer: PreTrainedTokenizerBase, of_catalogue: str | None) -> str | None:
    template = of_catalogue or tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template:
            raise unsupported_model(
                f"none of the base model's chat templates ({', '.join(sorted(template))}) is named "
                "'default'; the operator can set chat_template in the catalogue entry"
            )
        template = template["default"]
    if template is not None and len(template.encode()) > MAX_TEMPLATE_BYTES:
        raise unsupported_model(
            f"the base model's chat template has {len(template.encode())} bytes, and at most "
            f"{MAX_TEMPLATE_BYTES} are allowed; the operator can set a shorter chat_template in "
            "the catalogue entry"
        )
    return None if template is None else str(template)
