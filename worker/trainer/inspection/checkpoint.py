"""What a checkpoint is, found without loading its weights: the facts a plan is made from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from app.domain.plan import BaseModelFacts
from app.domain.templates import MAX_TEMPLATE_BYTES
from worker.reward_model import base_tokenizer
from worker.reward_model.errors import unsupported
from worker.reward_model.special_tokens import spare_pad_tokens, tokens_around
from worker.trainer.inspection import modules
from worker.trainer.inspection.padding_probe import (
    TOLERANCE,
    UNUSABLE,
    NotShrinkableError,
    padding_shift,
)

#: Read their score at the last position, padding or not; refused without asking a probe.
READS_LAST_POSITION = frozenset({"xlnet"})
#: Cannot be called with token ids and a mask alone.
NEEDS_MORE_THAN_TEXT = {
    "layoutlmv2": "images and boxes with every text",
    "layoutlmv3": "images and boxes with every text",
    "mra": "kernels of its own, without which every text scores the same",
    "perceiver": "texts of one fixed length",
    "reformer": "a hash seed with every text, without which one scores differently at every call",
    "xmod": "a language with every text",
}
#: Decoders whose head is not called ``score``.
_OTHER_CAUSAL = frozenset({"ctrl", "modernbert-decoder"})
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def inspect(
    model_dir: Path, *, revision: str | None, chat_template: str | None, digest: str
) -> BaseModelFacts:
    """The facts about the checkpoint in ``model_dir``; seconds, and no weights in memory.

    ``chat_template`` is the catalogue's and goes before the tokenizer's own. ``digest`` is the
    sha256 of the model's files, which the caller has at hand.

    Raises:
        TrainerFailure: ``model_unsupported``, with what was found and what to use instead.
    """
    config = _config(model_dir)
    dtype = _stored_dtype(model_dir)
    model, absent = load_empty(model_dir)
    _refuse_by_padding(config, type(model).__name__)
    tokenizer, from_file = _tokenizer(model_dir)
    template = chat_template or tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template:
            raise unsupported(
                f"its chat templates are called {', '.join(sorted(template))} and none 'default'; "
                "the operator can give the catalogue entry a chat_template of its own"
            )
        template = template["default"]
    if template is not None and len(template.encode()) > MAX_TEMPLATE_BYTES:
        raise unsupported(
            f"its chat template has {len(template.encode())} bytes, more than the "
            f"{MAX_TEMPLATE_BYTES} that one may have; the operator can give the catalogue entry "
            "a chat_template of its own"
        )
    new = modules.new_modules(model, absent)
    linear = modules.linear_modules(model, new)
    if not linear:
        raise unsupported(
            f"{type(model).__name__} has no linear layer that LoRA could adapt; use another model"
        )
    embedding = model.get_input_embeddings()
    rows = getattr(embedding, "num_embeddings", None) or config.get_text_config().vocab_size
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
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
        modules=modules.parameters_by_module(model),
        linear_modules=linear,
        attention_modules=modules.attention_modules(linear),
        is_mixture_of_experts=modules.is_mixture_of_experts(model),
        is_causal=hasattr(model, "score") or config.model_type in _OTHER_CAUSAL,
        supports_gradient_checkpointing=bool(model.supports_gradient_checkpointing),
        pad_token=None if pad is None else str(tokenizer.pad_token),
        pad_token_id=pad,
        eos_token=None if eos is None else str(tokenizer.eos_token),
        eos_token_id=eos,
        spare_pad_tokens=spare_pad_tokens(tokenizer, config, rows, template, model_dir),
        chat_template=template,
        tokens_around=tokens_around(tokenizer),
        tokenizer_from_file=from_file,
        max_token_id=max(tokenizer.get_vocab().values()),
        dtype=dtype,
    )


def load_empty(model_dir: Path) -> tuple[PreTrainedModel, set[str]]:
    """The one-label classifier on the meta device, and the parameters its checkpoint lacks.

    ``from_pretrained`` itself says what is missing: it knows the prefixes, renamings and fusions
    between a checkpoint and a class that a comparison of names would trip over.
    """
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            str(model_dir),
            num_labels=1,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except UNUSABLE as error:
        raise unsupported(f"transformers cannot build it: {_short(error)}") from error
    modules.refuse_ignored(model, info["unexpected_keys"])
    return model, set(info["missing_keys"]) | {key for key, *_ in info["mismatched_keys"]}


def max_positions(model: PreTrainedModel) -> int | None:
    """The most tokens a text may have; None where nothing limits it (ALiBi, relative positions).

    The configuration's number, less what a position table keeps for padding: RoBERTa counts from
    ``padding_idx + 1``, so 514 rows are 512 positions. Less again where a longer text beside it
    changes how a text is read (0.115 became 0.108 with longrope): its score is to be its own.
    """
    config = model.config.get_text_config()
    stated = getattr(config, "max_position_embeddings", None)
    limits = [stated] if isinstance(stated, int) and stated > 0 else []
    limits += _same_in_every_batch(config)
    for path, module in model.named_modules():
        if not isinstance(module, nn.Embedding):
            continue
        if "position_embeddings" in path.rpartition(".")[2] and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min(limits, default=None)


def _same_in_every_batch(config: PreTrainedConfig) -> list[int]:
    """Lengths over which transformers changes a whole batch, or all batches to come."""
    rope = getattr(config, "rope_parameters", None) or {}
    limits = [
        parameters["original_max_position_embeddings"]
        for parameters in (rope, *rope.values())  # some have a set for each type of layer
        if isinstance(parameters, dict) and parameters.get("rope_type") == "longrope"
    ]
    if getattr(config, "attention_type", None) == "block_sparse":
        # BigBird: attends fully to this length, and from then on to every other one.
        limits.append((5 + 2 * config.num_random_blocks) * config.block_size)
    return limits


def _config(model_dir: Path) -> PreTrainedConfig:
    try:
        raw = json.loads((model_dir / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise unsupported(f"its config.json cannot be read: {_short(error)}") from error
    if (model_dir / "adapter_config.json").exists():
        raise unsupported(
            "the directory holds an adapter (adapter_config.json), not a whole model; use its base "
            "model, or merge the adapter first"
        )
    if _is_quantized(raw):
        raise unsupported(
            "the checkpoint is quantised already (quantization_config in its config.json), and a "
            'quantised one cannot get a reward head; use the unquantised checkpoint with "4bit"'
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            str(model_dir), trust_remote_code=False, local_files_only=True
        )
    except UNUSABLE as error:
        raise unsupported(
            f"transformers {transformers.__version__} does not know model type "
            f"'{raw.get('model_type')}': {_short(error)}"
        ) from error
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise unsupported(
            f"model type '{config.model_type}' has no sequence-classification class in "
            f"transformers {transformers.__version__}; it cannot be trained as a reward model"
        )
    if more := NEEDS_MORE_THAN_TEXT.get(config.model_type):
        raise unsupported(f"model type '{config.model_type}' needs {more}; use another model")
    if config.is_encoder_decoder:
        raise unsupported(
            f"model type '{config.model_type}' is an encoder-decoder, which reads its score at "
            "EOS tokens and fails on texts with different numbers of them; use an encoder or a "
            "decoder"
        )
    return config


def _is_quantized(raw: dict[str, Any]) -> bool:
    parts = [raw, *(v for v in raw.values() if isinstance(v, dict))]
    return any(part.get("quantization_config") for part in parts)


def _refuse_by_padding(config: PreTrainedConfig, architecture: str) -> None:
    reason = None
    if config.model_type in READS_LAST_POSITION:
        reason = "it reads its score at the last position, padding or not"
    else:
        try:
            shift = padding_shift(config)
        except NotShrinkableError:
            return
        if shift > TOLERANCE:
            reason = f"a small model of its kind scored {shift:.2g} apart, alone and padded"
    if reason:
        raise unsupported(
            f"the score of {architecture} depends on right padding: {reason}; use another model"
        )


def _stored_dtype(model_dir: Path) -> str:
    """The type of most of the checkpoint's numbers, from the headers of its files."""
    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise unsupported(
            "it has no *.safetensors file; convert the checkpoint (other formats can run code)"
        )
    sizes: Counter[str] = Counter()
    for file in files:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(file.stat().st_size, 100_000_000):
                raise unsupported(f"{file.name} is no safetensors file; download it again")
            try:
                header = json.loads(stream.read(length))
            except ValueError as error:
                raise unsupported(f"{file.name} is damaged; download it again") from error
        for name, tensor in header.items():
            if name != "__metadata__":
                first, end = tensor["data_offsets"]
                sizes[tensor["dtype"]] += end - first
    if not sizes:
        raise unsupported("its *.safetensors files hold no tensors; download them again")
    stored = sizes.most_common(1)[0][0]
    if stored not in _DTYPES:
        raise unsupported(
            f"its weights are stored as {stored}; use the unquantised checkpoint (F32, F16, BF16)"
        )
    return _DTYPES[stored]


def _tokenizer(model_dir: Path) -> tuple[PreTrainedTokenizerBase, bool]:
    """The tokenizer, and whether it is loaded from its file because transformers misreads it."""
    try:
        tokenizer = base_tokenizer.load(model_dir, from_file=False)
        if from_file := base_tokenizer.differs_from_file(tokenizer, model_dir):
            tokenizer = base_tokenizer.load(model_dir, from_file=True)
    except UNUSABLE as error:
        raise unsupported(f"its tokenizer cannot be loaded: {_short(error)}") from error
    if not tokenizer.get_vocab():
        raise unsupported("its tokenizer has no vocabulary; add the tokenizer's files")
    return tokenizer, from_file


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}"
