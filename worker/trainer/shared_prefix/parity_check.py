"""Compare packed rows with the stock forward on one real micro-batch, before a run.

The static check in ``support`` cannot know how a model behaves; this check runs it.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from worker.reward_model.errors import is_out_of_memory
from worker.reward_model.fused_layers import fused_kernels
from worker.reward_model.packed_attention import PackedPass
from worker.reward_model.packed_layout import SplitGroup, pack_groups, split_batch
from worker.reward_model.packed_model import PackedModel, unwrap_peft
from worker.trainer.shared_prefix.disentangled import DisentangledModel
from worker.trainer.shared_prefix.memory import MEASURED_TOKENS
from worker.trainer.shared_prefix.support import arguments_reason, dropout_reason
from worker.trainer.shared_prefix.trainer import SharedPrefixRewardTrainer

log = logging.getLogger(__name__)

#: Distance of the hidden states that a reward is read from, relative to their norm. Float32 differs
#: by 1e-7 to 3e-6, 28 layers in bfloat16 by 1 to 3 %, a leak between branches by 20 % and more.
TOLERANCE = {torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
#: Packed rows may differ from padded ones by this multiple of the effect of padding itself.
NOISE_FACTOR = 4.0
#: Cosine of the gradients with fused layers and without: bfloat16 alone gives 0.999.
MIN_COSINE = 0.99
#: Rows of the training set among which pairs with a common prefix are looked for.
CANDIDATE_ROWS = 64


@dataclass(frozen=True)
class ParityResult:
    """Whether packed rows give the model's own rewards; if not, the reason."""

    has_parity: bool
    reason: str | None = None
    difference: float | None = None  # the largest of a hidden state, relative to its norm
    #: Effect of padding in bfloat16, measured in the same way. In float32 it is negligible.
    noise: float = 0.0

    @property
    def is_as_exact_as_padding(self) -> bool:
        """Whether evaluations may use packed rows: the certificate allows four times the noise."""
        if not self.has_parity or self.difference is None:
            return False
        return self.difference <= max(TOLERANCE[torch.float32], NOISE_FACTOR * self.noise)


def check_parity(trainer: SharedPrefixRewardTrainer) -> ParityResult:
    """Run two training pairs through the live model, with the stock forward and packed.

    The hidden states at the ends of the replies are compared, not the rewards: a random head may
    give rewards that nearly cancel, and whose rounding errors are then large in proportion.

    The check leaves no gradients and restores the random states, so that a run is the same with and
    without it. If a model does not allow its last layer to be trimmed, or a GPU the variable-length
    call or fused layers, the trainer is switched to the simpler variant. An exception of the model
    becomes the reason, except if memory ran out: then shorter pairs are tried.
    """
    try:
        original = trainer.packed_model
    except AttributeError as error:
        return ParityResult(
            has_parity=False, reason=f"the model is not built as a decoder: {error}"
        )
    try:
        return _first_with_parity(trainer, original, longest=None)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return _first_with_parity(trainer, original, longest=MEASURED_TOKENS)


def _first_with_parity(
    trainer: SharedPrefixRewardTrainer, original: PackedModel, *, longest: int | None
) -> ParityResult:
    devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
    # From the fastest to the simplest variant. A CPU never makes the variable-length call.
    variants = [
        replace(original, trims_last_layer=trims, uses_varlen=varlen, uses_fused_layers=fused)
        for trims in dict.fromkeys((original.trims_last_layer, False))
        for varlen in ((True, False) if may_have_varlen(trainer) else (True,))
        for fused in ((True, False) if fused_kernels(trainer.args.device) else (False,))
    ]
    result = ParityResult(has_parity=False, reason="no variant was tried")
    with torch.random.fork_rng(devices), torch.no_grad():
        for trainer.packed_model in variants:
            result = _try_compare(trainer, longest)
            if result.has_parity:
                return result
    trainer.packed_model = original
    return result


def check_disentangled(trainer: SharedPrefixRewardTrainer) -> None:
    """Let a DeBERTa on a CPU use the attention of ``disentangled`` if it gives the same results.

    Compares the hidden states that rewards are read from, of the first tokens of two pairs, and
    their gradients. Dropout rules it out, because a pass would use the same mask for the positions
    of all its forwards.
    """
    model, args = trainer.model, trainer.args
    found = DisentangledModel.of(model) if args.device.type == "cpu" else None
    is_float32 = all(p.dtype == torch.float32 for p in model.parameters())
    if found is None or not is_float32 or arguments_reason(args) or dropout_reason(model):
        return
    inputs = trainer.data_collator(_sample_rows(trainer, MEASURED_TOKENS))
    expected = _encoder_results(model, inputs)
    try:
        with found.in_use():
            results = _encoder_results(model, inputs)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        log.exception("The model keeps its own attention, because the faster one failed.")
        return
    differences = map(_relative_difference, expected, results)
    if all(difference <= TOLERANCE[torch.float32] for difference in differences):
        trainer.disentangled = found


def _encoder_results(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the states of the first tokens, [N, H], and gradients of a mix of them, [1, P]."""
    encoder = unwrap_peft(model).base_model
    trained = [p for p in encoder.parameters() if p.requires_grad]
    output = encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    states: Tensor = output.last_hidden_state[:, 0]
    # A plain sum of normalised states is constant.
    mixed = (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum()
    # A run may train nothing below the pooler.
    gradients = torch.autograd.grad(mixed, trained, allow_unused=True) if trained else ()
    found = [states.new_zeros(1), *(g.flatten() for g in gradients if g is not None)]
    return states.detach(), torch.cat(found).unsqueeze(0)


def may_have_varlen(trainer: SharedPrefixRewardTrainer) -> bool:
    """Whether the trainer's device may have variable-length kernels."""
    return bool(trainer.args.device.type == "cuda")


def _try_compare(trainer: SharedPrefixRewardTrainer, longest: int | None) -> ParityResult:
    try:
        return _compare(trainer, longest)
    except Exception as error:
        if is_out_of_memory(error):
            raise  # other variants would need even more memory
        reason = f"the packed forward failed: {type(error).__name__}: {error}"
        return ParityResult(has_parity=False, reason=reason)


def _compare(trainer: SharedPrefixRewardTrainer, longest: int | None) -> ParityResult:
    packed_model, model = trainer.packed_model, trainer.model
    head = packed_model.head
    inputs = trainer._prepare_inputs(trainer.data_collator(_sample_rows(trainer, longest)))
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    # Compare float32 weights in float32, even if the run uses autocast: the tolerance is tight.
    is_float32 = dtypes == {torch.float32}
    no_autocast = torch.autocast(trainer.args.device.type, enabled=False)
    with no_autocast if is_float32 else trainer.accelerator.autocast():
        with _head_calls(head) as stock_calls:
            logits = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                use_cache=False,
            ).logits
        pad_token_id = model.config.get_text_config().pad_token_id
        pairs = split_batch(inputs["input_ids"], pad_token_id)
        row = pack_groups(pairs, trainer.args.device)
        with packed_model.packed_attention(row) as packed_pass, _head_calls(head) as packed_calls:
            packed_model.rewards(row)
        if may_have_varlen(trainer):
            _gradients(trainer, packed_model)  # a kernel may lack a backward
        fused_reason = _fused_reason(trainer) if packed_model.uses_fused_layers else None
        noise = 0.0 if is_float32 else _padding_noise(trainer, pairs, stock_calls[-1][0])
    if reason := _bypass_reason(trainer, packed_pass) or fused_reason:
        return ParityResult(has_parity=False, reason=reason)
    (stock_hidden, outputs), (packed_hidden, _) = stock_calls[-1], packed_calls[-1]
    ends = _reply_ends(pairs, trainer.args.device)
    difference = _relative_difference(stock_hidden[ends], packed_hidden.flatten(end_dim=-2))
    tolerance = TOLERANCE[torch.float32] if is_float32 else max(TOLERANCE.get(d, 0) for d in dtypes)
    if not difference <= tolerance:  # also refuses NaN
        reason = (
            f"hidden states differ by {difference:.1e} of their norm, more than {tolerance:.0e}"
        )
        return ParityResult(has_parity=False, reason=reason, difference=difference)
    if not torch.equal(logits.view(2, -1).T.flatten(), outputs[ends].flatten()):
        reason = "the model does not return its head's outputs at the ends of the replies"
        return ParityResult(has_parity=False, reason=reason, difference=difference)
    return ParityResult(has_parity=True, difference=difference, noise=noise)


def _padding_noise(
    trainer: SharedPrefixRewardTrainer, pairs: Sequence[SplitGroup], padded: Tensor
) -> float:
    """Return how far padding moves the hidden states at the ends, relative to their norm."""
    alone = []
    for ids in (ids for pair in pairs for ids in pair.sequences):
        row = ids.unsqueeze(0).to(trainer.args.device)
        with _head_calls(trainer.packed_model.head) as calls:
            trainer.model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False)
        alone.append(calls[-1][0][0, -1])
    ends = _reply_ends(pairs, trainer.args.device)
    return _relative_difference(padded[ends], torch.stack(alone))


def _fused_reason(trainer: SharedPrefixRewardTrainer) -> str | None:
    """Return why the backward of fused layers is wrong, which the hidden states do not show."""
    fused = trainer.packed_model
    plain = replace(fused, uses_fused_layers=False)
    gradients, expected = (_gradients(trainer, model) for model in (fused, plain))
    cosine = float(cosine_similarity(gradients, expected, dim=0))
    if cosine >= MIN_COSINE:
        return None
    return f"fused layers change the gradients: their cosine is {cosine:.4f}"


def _gradients(trainer: SharedPrefixRewardTrainer, packed_model: PackedModel) -> Tensor:
    """Return the gradients of short pairs' rewards below the head, as one vector.

    The backward leaves no gradients.
    """
    inputs = trainer.data_collator(_sample_rows(trainer, MEASURED_TOKENS))
    pad_token_id = trainer.model.config.get_text_config().pad_token_id
    row = pack_groups(split_batch(inputs["input_ids"], pad_token_id), trainer.args.device)
    of_head = {id(p) for p in packed_model.head.parameters()}
    trained = [p for p in trainer.model.parameters() if p.requires_grad and id(p) not in of_head]
    with torch.enable_grad(), packed_model.packed_attention(row):
        found = torch.autograd.grad(packed_model.rewards(row).sum(), trained, allow_unused=True)
    return torch.cat([g.float().flatten() for g in found if g is not None])


def _bypass_reason(trainer: SharedPrefixRewardTrainer, packed_pass: PackedPass) -> str | None:
    """Return why some attention did not use the packed function."""
    packed_model = trainer.packed_model
    missed = len(set(packed_model.attentions) - packed_pass.attended)
    if missed:
        return (
            f"{missed} of {len(packed_model.attentions)} attention layers did not use the packed "
            "attention"
        )
    config = packed_model.decoder.config.get_text_config()
    has_window = getattr(config, "sliding_window", None) and getattr(
        config, "use_sliding_window", 1
    )
    if has_window and not packed_pass.windows:
        return "the model has a sliding window, but its attention does not pass it on"
    return None


@contextmanager
def _head_calls(head: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect the inputs and outputs of the head."""
    calls: list[tuple[Tensor, Tensor]] = []
    hook = head.register_forward_hook(
        lambda _module, inputs, output: calls.append((inputs[0], output))
    )
    try:
        yield calls
    finally:
        hook.remove()


def _reply_ends(pairs: Sequence[SplitGroup], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the positions of the reply ends in a padded batch [2B, L]: chosen, rejected, chosen, …

    The first tensor holds rows, the second positions.
    """
    count = len(pairs)
    rows = [row for i in range(count) for row in (i, count + i)]
    ends = [length - 1 for pair in pairs for length in pair.sequence_lengths]
    return torch.tensor(rows, device=device), torch.tensor(ends, device=device)


def _relative_difference(stock: Tensor, packed: Tensor) -> float:
    """Return the largest distance of two rows of [N, H], relative to the norm of the first."""
    norms = stock.float().norm(dim=1).clamp_min(1e-6)
    return float(((stock.float() - packed.float()).norm(dim=1) / norms).max())


def _sample_rows(trainer: SharedPrefixRewardTrainer, longest: int | None) -> list[dict[str, Any]]:
    """Return two rows, with a common prefix if the first rows of the data set have any.

    Sequences are cut to their first ``longest`` tokens.
    """
    rows = list(islice(trainer.train_dataset, CANDIDATE_ROWS))
    sharing = [r for r in rows if r["chosen_ids"][:1] == r["rejected_ids"][:1]]
    chosen = (sharing + rows)[:2]
    if longest is None:
        return chosen
    names = ("chosen_ids", "rejected_ids")
    return [{**row, **{name: row[name][:longest] for name in names}} for row in chosen]
