"""The two ways to compute the rewards of pairs with few or no padding tokens.

``PackedForward`` computes one row without padding and each common prefix once. ``GroupedForward``
is for models that cannot: it pads sequences of similar length to each other, in several forwards
whose rewards enter one loss.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from worker.reward_model.packed_layout import SplitGroup, pack_groups, split_batch, to_device
from worker.reward_model.packed_model import PackedModel, recomputed_layers
from worker.trainer.shared_prefix.disentangled import DisentangledModel

#: Tokens that take as long as the fixed cost of one more forward and backward. The value for GPUs
#: is an estimate: a pass of fewer than some thousand tokens mainly launches kernels.
PASS_TOKENS = {"cpu": 32, "cuda": 4096}
#: Maximum number of sequences in a forward; bounds the time to choose groups.
MAX_GROUP = 128


class Forward(Protocol):
    """Splits a collated batch into pairs and computes rewards of some of them."""

    def split(self, inputs: dict[str, Any]) -> list[SplitGroup]:
        """Return the pairs of a batch from TRL's collator, on the CPU."""

    def passing(
        self, groups: Sequence[SplitGroup], *, is_recomputed: bool
    ) -> AbstractContextManager[Any]:
        """Return the context of a forward and its backward, which gives the row to compute."""

    def rewards(self, row: Any) -> Tensor:
        """Return the reward of each sequence of a row, in float32."""


@dataclass(frozen=True)
class PackedForward:
    """Packed rows of a decoder."""

    packed_model: PackedModel
    pad_token_id: int
    device: torch.device

    def split(self, inputs: dict[str, Any]) -> list[SplitGroup]:
        """Cut the pairs of a batch after the tokens that give their rewards."""
        return split_batch(inputs["input_ids"], self.pad_token_id)

    @contextmanager
    def passing(self, groups: Sequence[SplitGroup], *, is_recomputed: bool) -> Iterator[Any]:
        """Attend within the segments of the groups' row."""
        row = pack_groups(groups, self.device)
        with (
            self.packed_model.activation_checkpointing(is_on=is_recomputed),
            self.packed_model.packed_attention(row),
        ):
            yield row

    def rewards(self, row: Any) -> Tensor:
        """Return the reward of each sequence of the row."""
        return self.packed_model.rewards(row)


@dataclass(frozen=True)
class GroupedForward:
    """Padded groups of sequences of similar length, for any model that ignores padding."""

    model: nn.Module
    pad_token_id: int
    device: torch.device
    #: A DeBERTa whose attention is replaced in a pass.
    disentangled: DisentangledModel | None = None

    def split(self, inputs: dict[str, Any]) -> list[SplitGroup]:
        """Cut the padding off the pairs of a batch."""
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        rows = [ids[:n] for ids, n in zip(inputs["input_ids"].cpu(), lengths, strict=True)]
        half = len(rows) // 2
        return [SplitGroup(rows[i], (rows[half + i],), 0) for i in range(half)]

    @contextmanager
    def passing(self, groups: Sequence[SplitGroup], *, is_recomputed: bool) -> Iterator[Any]:
        """Yield the sequences of all groups."""
        attention = self.disentangled and self.disentangled.in_use(is_recomputed=is_recomputed)
        with (
            recomputed_layers(self.model.modules(), is_on=is_recomputed),
            attention or nullcontext(),
        ):
            yield [ids for group in groups for ids in group.sequences]

    def rewards(self, row: Any) -> Tensor:
        """Return the reward of each sequence."""
        found: dict[int, Tensor] = {}
        for group in group_by_length([len(ids) for ids in row], PASS_TOKENS[self.device.type]):
            ids = nn.utils.rnn.pad_sequence(
                [row[i] for i in group], batch_first=True, padding_value=self.pad_token_id
            )
            lengths = torch.tensor([len(row[i]) for i in group])
            mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
            logits = self.model(
                input_ids=to_device(ids, self.device),
                attention_mask=to_device(mask, self.device),
                use_cache=False,
            ).logits
            found |= zip(group, logits.float().view(-1), strict=True)
        return torch.stack([found[i] for i in range(len(row))])


def group_by_length(lengths: Sequence[int], pass_tokens: int) -> list[list[int]]:
    """Divide sequences into groups that are padded to their longest, for the least total cost.

    A group costs its padded tokens and ``pass_tokens``. Returns the indices of each group. In an
    optimal division every group is a run of the sorted lengths, so the best one up to each sequence
    follows from the best ones before it.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    best: list[tuple[int, int]] = [(0, 0)]  # cost of the first sequences, start of the last group
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        best.append(
            min(
                (best[start][0] + (end - start) * longest + pass_tokens, start)
                for start in range(max(0, end - MAX_GROUP), end)
            )
        )
    groups: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        groups.append(order[start:end])
        end = start
    return groups
