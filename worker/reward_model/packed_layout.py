"""Lay preference pairs out in one row, without padding and with each common prefix once.

A row holds ``[P1 C1 R1 P2 C2 R2 …]``: P is the common prefix of a pair's two sequences, C and R are
the rest of the chosen and of the rejected one. Each part may be empty. Positions run from 0 to
p+c−1 over P and C, and start again at p for R.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class SplitPair:
    """A pair, split at the end of its common prefix and cut after the tokens that give its rewards.

    ``chosen`` holds P and C, ``rejected_tail`` holds R, both one-dimensional token ids.
    """

    chosen: Tensor
    rejected_tail: Tensor
    prefix_length: int

    @property
    def token_count(self) -> int:
        """Tokens that the pair takes in a row: p + c + r."""
        return len(self.chosen) + len(self.rejected_tail)


@dataclass(frozen=True)
class PackedRow:
    """A row of pairs, ready for a decoder.

    ``input_ids`` and ``position_ids`` have shape [1, T]. ``reward_index``, of shape [2B], holds the
    positions at which rewards are read: chosen, rejected, chosen, … ``lengths`` holds (p, c, r) of
    each pair.
    """

    input_ids: Tensor
    position_ids: Tensor
    reward_index: Tensor
    lengths: tuple[tuple[int, int, int], ...]

    @property
    def token_count(self) -> int:
        """Tokens in the row."""
        return self.input_ids.shape[1]

    def segments(self, *, only_rewards: bool) -> "Segments":
        """Return the row's attention segments: [P C] on [P C] and [R] on [P R], pair by pair.

        With ``only_rewards`` each segment has one query, the token that gives the reward.
        """
        keys: list[Tensor] = []
        query_lengths: list[int] = []
        key_lengths: list[int] = []
        start = 0
        for prefix, chosen, tail in self.lengths:
            whole = prefix + chosen
            keys.append(torch.arange(start, start + whole))
            query_lengths.append(1 if only_rewards else whole)
            key_lengths.append(whole)
            if tail or only_rewards:
                keys += [
                    torch.arange(start, start + prefix),
                    torch.arange(start + whole, start + whole + tail),
                ]
                query_lengths.append(1 if only_rewards else tail)
                key_lengths.append(prefix + tail)
            start += whole + tail
        device = self.input_ids.device
        return Segments(
            key_index=torch.cat(keys).to(device),
            query_offsets=_offsets(query_lengths).to(device),
            key_offsets=_offsets(key_lengths).to(device),
            longest_query=max(query_lengths),
            longest_key=max(key_lengths),
        )


@dataclass(frozen=True)
class Segments:
    """Arguments of one variable-length attention call over N segments.

    ``key_index`` holds the row positions of all keys. ``query_offsets`` and ``key_offsets`` are the
    cumulative lengths of the segments, starting with 0: int32 [N + 1].
    """

    key_index: Tensor
    query_offsets: Tensor
    key_offsets: Tensor
    longest_query: int
    longest_key: int


def split_batch(input_ids: Tensor, pad_token_id: int) -> list[SplitPair]:
    """Split a padded batch [2B, L] from TRL's collator, chosen half first, into its pairs.

    A classifier reads its output at the right-most token that is not the pad token, or at the first
    token when there is none. Later tokens cannot influence a causal model and are cut off.
    """
    ids = input_ids.cpu()  # one transfer: the layout is computed on the host
    positions = torch.arange(ids.shape[1])
    lengths = ((ids != pad_token_id) * positions).argmax(dim=1) + 1
    chosen, rejected = ids.chunk(2)
    chosen_lengths, rejected_lengths = lengths.chunk(2)
    common = (chosen == rejected).long().cumprod(dim=1).sum(dim=1)
    prefixes = torch.minimum(torch.minimum(common, chosen_lengths), rejected_lengths)
    return [
        SplitPair(c[:c_length], r[prefix:r_length], prefix)
        for c, r, c_length, r_length, prefix in zip(
            chosen,
            rejected,
            chosen_lengths.tolist(),
            rejected_lengths.tolist(),
            prefixes.tolist(),
            strict=True,
        )
    ]


def pack_pairs(pairs: Sequence[SplitPair], device: torch.device | str = "cpu") -> PackedRow:
    """Lay pairs out in one row on ``device``."""
    ids: list[Tensor] = []
    positions: list[Tensor] = []
    reward_index: list[int] = []
    lengths: list[tuple[int, int, int]] = []
    end = 0
    for pair in pairs:
        prefix, chosen, tail = pair.prefix_length, len(pair.chosen), len(pair.rejected_tail)
        ids += [pair.chosen, pair.rejected_tail]
        positions += [torch.arange(chosen), torch.arange(prefix, prefix + tail)]
        chosen_end = end + chosen - 1
        rejected_end = end + chosen + tail - 1 if tail else end + prefix - 1
        reward_index += [chosen_end, rejected_end]
        end += chosen + tail
        lengths.append((prefix, chosen - prefix, tail))
    return PackedRow(
        input_ids=torch.cat(ids).unsqueeze(0).to(device),
        position_ids=torch.cat(positions).unsqueeze(0).to(device),
        reward_index=torch.tensor(reward_index, device=device),
        lengths=tuple(lengths),
    )


def chunk_pairs(pairs: Sequence[SplitPair], token_budget: int | None) -> Iterator[list[SplitPair]]:
    """Split a batch, in its order, into chunks of at most ``token_budget`` tokens.

    A pair that exceeds the budget alone becomes a chunk of its own. None means one chunk.
    """
    chunk: list[SplitPair] = []
    used = 0
    for pair in pairs:
        if chunk and token_budget is not None and used + pair.token_count > token_budget:
            yield chunk
            chunk, used = [], 0
        chunk.append(pair)
        used += pair.token_count
    yield chunk


def _offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
