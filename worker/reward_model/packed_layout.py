"""Pack groups of sequences into one row, without padding and with each common prefix only once.

A group holds the replies to one prompt: two in training (a preference pair), any number in scoring.
A row holds ``[P A1 A2 … An]`` for each group: P is the common prefix of the group's sequences, and
A1 to An are their remaining tokens. Each part may be empty. p and a1 … an are the lengths of the
parts. Positions run from 0 to p+a1−1 over P and A1, and start again at p for every further reply.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

import torch
from torch import Tensor


@dataclass(frozen=True)
class SplitGroup:
    """A group, split at the end of its common prefix; sequences end at their reward's token.

    ``first`` holds P and A1, ``tails`` hold A2 to An, all as one-dimensional tensors of token ids.
    """

    first: Tensor
    tails: tuple[Tensor, ...]
    prefix_length: int

    @property
    def token_count(self) -> int:
        """Number of tokens of the group in a row: p + a1 + … + an."""
        return len(self.first) + sum(map(len, self.tails))

    @property
    def sequences(self) -> list[Tensor]:
        """The complete sequences."""
        prefix = self.first[: self.prefix_length]
        return [self.first, *(torch.cat((prefix, tail)) for tail in self.tails)]

    @property
    def sequence_lengths(self) -> list[int]:
        """Number of tokens of each complete sequence."""
        return [len(self.first), *(self.prefix_length + len(tail) for tail in self.tails)]


@dataclass(frozen=True)
class PackedRow:
    """A row of groups, ready for a decoder.

    ``input_ids`` and ``position_ids`` have the shape [1, T]. ``reward_index`` [sequences] holds the
    row index of the token at which each reward is read, group by group, chosen before rejected in a
    pair. ``lengths`` holds (p, a1, …, an) of each group.
    """

    input_ids: Tensor
    position_ids: Tensor
    reward_index: Tensor
    lengths: tuple[tuple[int, ...], ...]

    @property
    def token_count(self) -> int:
        """Number of tokens in the row."""
        return self.input_ids.shape[1]

    @property
    def part_lengths(self) -> list[int]:
        """Lengths of the parts into which attention splits the row: p + a1, a2, … of each group."""
        return [n for p, first, *tails in self.lengths for n in (p + first, *tails)]

    def segments(self, *, only_rewards: bool) -> "Segments":
        """Return the row's attention segments: [P A1] on [P A1] and [Ai] on [P Ai], group by group.

        With ``only_rewards`` each segment has one query, the token at which the reward is read.
        """
        keys: list[Tensor] = []
        query_lengths: list[int] = []
        key_lengths: list[int] = []
        start = 0
        for prefix, first, *tails in self.lengths:
            whole, end = prefix + first, start + prefix + first
            keys.append(torch.arange(start, end))
            query_lengths.append(1 if only_rewards else whole)
            key_lengths.append(whole)
            for tail in tails:
                if tail or only_rewards:
                    keys += [torch.arange(start, start + prefix), torch.arange(end, end + tail)]
                    query_lengths.append(1 if only_rewards else tail)
                    key_lengths.append(prefix + tail)
                end += tail
            start = end
        device = self.input_ids.device
        return Segments(
            key_index=to_device(torch.cat(keys), device),
            query_offsets=to_device(_offsets(query_lengths), device),
            key_offsets=to_device(_offsets(key_lengths), device),
            longest_query=max(query_lengths),
            longest_key=max(key_lengths),
        )


@dataclass(frozen=True)
class Segments:
    """Arguments of one variable-length attention call over N segments.

    ``key_index`` holds the row indices of all keys. ``query_offsets`` and ``key_offsets`` are the
    cumulative lengths of the segments, starting with 0, as int32 [N + 1].
    """

    key_index: Tensor
    query_offsets: Tensor
    key_offsets: Tensor
    longest_query: int
    longest_key: int


def split_batch(input_ids: Tensor, pad_token_id: int) -> list[SplitGroup]:
    """Split a padded batch [2B, L] from TRL's collator, chosen half first, into its B pairs.

    A classifier reads its output at the last token that is not the pad token, or at the first token
    if there is none. Later tokens cannot influence a causal model and are removed.
    """
    ids = input_ids.cpu()  # one transfer: the layout is computed on the host
    positions = torch.arange(ids.shape[1])
    lengths = ((ids != pad_token_id) * positions).argmax(dim=1) + 1
    chosen, rejected = ids.chunk(2)
    chosen_lengths, rejected_lengths = lengths.chunk(2)
    common = (chosen == rejected).long().cumprod(dim=1).sum(dim=1)
    prefixes = torch.minimum(torch.minimum(common, chosen_lengths), rejected_lengths)
    return [
        SplitGroup(c[:c_length], (r[prefix:r_length],), prefix)
        for c, r, c_length, r_length, prefix in zip(
            chosen,
            rejected,
            chosen_lengths.tolist(),
            rejected_lengths.tolist(),
            prefixes.tolist(),
            strict=True,
        )
    ]


def split_replies(sequences: Sequence[list[int]]) -> SplitGroup:
    """Return the group of some sequences of token ids, none of which may be empty."""
    # The common prefix of all sequences is that of the smallest and the greatest of them.
    first, *others = sequences
    ends = zip(min(sequences), max(sequences), strict=False)
    prefix = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    return SplitGroup(
        torch.tensor(first), tuple(torch.tensor(ids[prefix:]).long() for ids in others), prefix
    )


def pack_groups(groups: Sequence[SplitGroup], device: torch.device | str = "cpu") -> PackedRow:
    """Pack groups into one row on ``device``."""
    ids: list[Tensor] = []
    positions: list[Tensor] = []
    reward_index: list[int] = []
    lengths: list[tuple[int, ...]] = []
    start = 0
    for group in groups:
        prefix, end = group.prefix_length, start + len(group.first)
        ids += [group.first, *group.tails]
        positions.append(torch.arange(len(group.first)))
        reward_index.append(end - 1)
        for tail in group.tails:
            positions.append(torch.arange(prefix, prefix + len(tail)))
            end += len(tail)
            reward_index.append(end - 1 if len(tail) else start + prefix - 1)
        lengths.append((prefix, len(group.first) - prefix, *map(len, group.tails)))
        start = end
    return PackedRow(
        input_ids=to_device(torch.cat(ids).unsqueeze(0), device),
        position_ids=to_device(torch.cat(positions).unsqueeze(0), device),
        reward_index=to_device(torch.tensor(reward_index), device),
        lengths=tuple(lengths),
    )


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor of the host. From pinned memory, a GPU copies without making the host wait."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
