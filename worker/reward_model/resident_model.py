"""A base model that stays in memory with several adapters and scores token sequences with them.

Decoders score packed rows: the replies to a prompt share its tokens, short sequences need no
padding, and all adapters share the computation of the base model. Other models score batches of
sequences of similar length, one adapter at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PeftModelForSequenceClassification
from peft.utils import set_peft_model_state_dict

from worker.reward_model.grouped_lora import (
    AdapterSpan,
    grouped_adapters,
    grouped_head,
    grouping_problem,
    patch_layers,
)
from worker.reward_model.loading import DeviceConfig, load_classifier
from worker.reward_model.packaged_adapter import AdapterWeights
from worker.reward_model.packed_layout import SplitGroup, pack_groups, split_replies
from worker.reward_model.packed_model import PackedModel
from worker.reward_model.packed_support import decoder_reason
from worker.reward_model.scoring import ALONE, score

#: Maximum tokens of a packed row for each thread of a CPU. The activations of longer rows exceed
#: its caches, which costs more than a further forward.
CPU_ROW_TOKENS = 768


@dataclass(frozen=True)
class ReplyGroup:
    """Sequences of token ids with the same prompt, to be scored with one adapter."""

    adapter: str
    sequences: Sequence[list[int]]

    @property
    def token_count(self) -> int:
        """Number of tokens of all sequences; the prompt counts for each sequence."""
        return sum(map(len, self.sequences))


@dataclass
class ScoredGroups:
    """Rewards of the sequences of each group, and the number of computed tokens without padding."""

    rewards: list[list[float]]
    computed_tokens: int = 0


@dataclass(frozen=True)
class _Unit:
    """A part of a group that is computed in one row, and the places of its rewards."""

    adapter: str
    split: SplitGroup
    places: Sequence[tuple[int, int]]  # group, sequence


class ResidentModel:
    """A base model on its device with its adapters.

    Use it in one thread only. ``batch_tokens`` limits the tokens of a forward; a longer sequence is
    computed alone.
    """

    def __init__(
        self, base_dir: Path, summary: dict[str, Any], device: str, batch_tokens: int
    ) -> None:
        config = DeviceConfig(device, summary["dtype"] == "bfloat16", summary["quantization"])
        base, _ = load_classifier(str(base_dir), config, summary["head_modules"])
        base.config.get_text_config().pad_token_id = summary["pad_token_id"]
        self.base_bytes = sum(p.numel() * p.element_size() for p in base.parameters())
        self.pad_token_id: int = summary["pad_token_id"]
        self.batch_tokens = batch_tokens
        self.device = device
        self._head_modules = list(summary["head_modules"])
        base.eval()  # type: ignore[no-untyped-call]
        self._base = base
        self._can_pack = decoder_reason(base) is None
        self._model: PeftModel | None = None
        self._packed: PackedModel | None = None
        self._groupable: set[str] = set()

    @property
    def adapters(self) -> list[str]:
        """Names of the loaded adapters."""
        return list(self._model.peft_config) if self._model is not None else []

    @property
    def max_positions(self) -> int | None:
        """Length limit of a sequence in tokens, or None if the configuration has no limit."""
        found = getattr(self._base.config.get_text_config(), "max_position_embeddings", None)
        return found if isinstance(found, int) and found > 0 else None

    def add(self, name: str, weights: AdapterWeights) -> int:
        """Put an adapter into the model; return the size of its parameters in bytes.

        Raises:
            KeyError, RuntimeError, ValueError: the weights do not fit the model. An adapter that
                was the first one leaves the model unusable.
        """
        try:
            self._insert(name, weights)
        except BaseException:
            if len(self.adapters) > 1 and name in self.adapters:
                self.remove(name)
            raise
        model = self._model
        assert model is not None
        model.eval()
        patch_layers(model)
        self._packed = PackedModel.of(model) if self._can_pack else None
        if self._can_pack and grouping_problem(model, name, self._head_modules) is None:
            self._groupable.add(name)
        return sum(
            p.numel() * p.element_size() for key, p in model.named_parameters() if name in key
        )

    def _insert(self, name: str, weights: AdapterWeights) -> None:
        """Create the adapter's modules without memory, and give them the tensors."""
        config = weights.config
        config.inference_mode = True
        if self._model is None:
            self._model = PeftModelForSequenceClassification(
                self._base, config, name, low_cpu_mem_usage=True
            )
        else:
            self._model.add_adapter(name, config, low_cpu_mem_usage=True)
        loaded: Any = set_peft_model_state_dict(
            self._model, weights.tensors, name, low_cpu_mem_usage=True
        )
        missing = [key for key in loaded.missing_keys if f".{name}." in key]
        if missing:
            raise ValueError(f"the adapter's files lack {missing[0]}")

    def remove(self, name: str) -> None:
        """Remove an adapter. The last adapter can only be removed together with its base model."""
        assert self._model is not None
        self._model.set_adapter(next(other for other in self.adapters if other != name))
        self._model.delete_adapter(name)
        self._groupable.discard(name)

    def use_stock(self, name: str) -> None:
        """Score with this adapter in padded batches from now on."""
        self._groupable.discard(name)

    def is_packed(self, name: str) -> bool:
        """Return whether sequences of this adapter are scored in packed rows."""
        return name in self._groupable

    def score(
        self, groups: Sequence[ReplyGroup], *, is_deterministic: bool = False
    ) -> ScoredGroups:
        """Return the raw reward of every sequence.

        With ``is_deterministic`` each sequence is computed alone, so that its reward has the same
        bits, independently of the other sequences.
        """
        assert self._model is not None
        result = ScoredGroups([[0.0] * len(group.sequences) for group in groups])
        stock: dict[str, list[tuple[int, int]]] = {}
        units: list[_Unit] = []
        for i, group in enumerate(groups):
            places = [(i, j) for j in range(len(group.sequences))]
            if group.adapter not in self._groupable:
                stock.setdefault(group.adapter, []).extend(places)
            elif is_deterministic:
                units += [self._unit(group, [place]) for place in places]
            else:
                units += self._units(group, places)
        with torch.inference_mode():
            for row in self._rows(units, is_deterministic=is_deterministic):
                self._score_row(row, result)
            for adapter, places in stock.items():
                self._score_stock(adapter, groups, places, result, is_deterministic)
        return result

    def _unit(self, group: ReplyGroup, places: Sequence[tuple[int, int]]) -> _Unit:
        replies = [self._until_reward(group.sequences[j]) for _, j in places]
        return _Unit(group.adapter, split_replies(replies), places)

    def _units(self, group: ReplyGroup, places: list[tuple[int, int]]) -> Iterable[_Unit]:
        """Split a group that exceeds ``batch_tokens``; each part computes the prompt again."""
        unit = self._unit(group, places)
        if unit.split.token_count <= self.batch_tokens or len(places) == 1:
            return [unit]
        middle = len(places) // 2
        return [*self._units(group, places[:middle]), *self._units(group, places[middle:])]

    def _until_reward(self, ids: list[int]) -> list[int]:
        """Truncate a sequence after the token at which transformers reads its reward."""
        last = next((i for i in range(len(ids) - 1, 0, -1) if ids[i] != self.pad_token_id), 0)
        return ids[: last + 1]

    def _rows(self, units: list[_Unit], *, is_deterministic: bool) -> Iterable[list[_Unit]]:
        """Yield rows, whose units of one adapter are adjacent."""
        limit = self.batch_tokens
        if self.device == "cpu":
            limit = min(limit, CPU_ROW_TOKENS * torch.get_num_threads())
        row: list[_Unit] = []
        used = 0
        for unit in sorted(units, key=lambda unit: unit.adapter):
            is_full = used + unit.split.token_count > limit
            if row and (is_deterministic or is_full):
                yield row
                row, used = [], 0
            row.append(unit)
            used += unit.split.token_count
        if row:
            yield row

    def _score_row(self, row: list[_Unit], result: ScoredGroups) -> None:
        packed_model = self._packed
        assert packed_model is not None
        packed = pack_groups([unit.split for unit in row], self.device)
        spans = _spans(row)
        self._activate(row[0].adapter)
        with packed_model.packed_attention(packed), grouped_adapters(spans):
            hidden = packed_model.hidden_at_rewards(packed)
            rewards = grouped_head(packed_model.head, hidden, spans).tolist()
        places = [place for unit in row for place in unit.places]
        for (i, j), reward in zip(places, rewards, strict=True):
            result.rewards[i][j] = reward
        result.computed_tokens += packed.token_count

    def _score_stock(
        self,
        adapter: str,
        groups: Sequence[ReplyGroup],
        places: list[tuple[int, int]],
        result: ScoredGroups,
        is_deterministic: bool,  # noqa: FBT001
    ) -> None:
        """Score padded batches of sequences of similar length."""
        assert self._model is not None
        self._activate(adapter)
        sequences = [groups[i].sequences[j] for i, j in places]
        rewards = score(
            self._model,
            sequences,
            pad_token_id=self.pad_token_id,
            batch_tokens=ALONE if is_deterministic else self.batch_tokens,
        )
        for (i, j), reward in zip(places, rewards, strict=True):
            result.rewards[i][j] = reward
        result.computed_tokens += sum(map(len, sequences))

    def _activate(self, name: str) -> None:
        """Make PEFT use the adapter, unless a packed row works with any active adapter."""
        assert self._model is not None
        active = self._model.active_adapter
        if active != name and not {active, name} <= self._groupable:
            self._model.set_adapter(name)


def _spans(row: Sequence[_Unit]) -> list[AdapterSpan]:
    """Return the span of each adapter of a row."""
    spans: list[AdapterSpan] = []
    token = reward = 0
    for unit in row:
        tokens, rewards = token + unit.split.token_count, reward + len(unit.places)
        if spans and spans[-1].adapter == unit.adapter:
            last = spans.pop()
            token, reward = last.tokens.start, last.rewards.start
        spans.append(AdapterSpan(unit.adapter, slice(token, tokens), slice(reward, rewards)))
        token, reward = tokens, rewards
    return spans
