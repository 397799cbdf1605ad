"""How preference pairs are laid out in one row without padding and without a shared prefix twice.

A row holds `[P1 C1 R1 P2 C2 R2 …]`: P is what both replies of a pair have in common, C and R what
is left of the chosen and of the rejected one; either may be empty. Positions run 0…p+c−1 and start
again at p for R.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """One pair, cut after the tokens whose outputs are its two rewards.

    `chosen` holds P and C, `rejected_tail` holds R, both one-dimensional token ids.
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

    `input_ids` and `position_ids` have shape [1, T]. `reward_index` has shape [2B] and says where
    the rewards are read: chosen, rejected, chosen, … `lengths` holds (p, c, r) of each pair.
    """

    input_ids: Tensor
    position_ids: Tensor
    reward_index: Tensor
    lengths: tuple[tuple[int, int, int], ...]

    @property
    def token_count(self) -> int:
        return self.input_ids.shape[1]

    def segments(self, *, only_rewards: bool) -> "Segments":
        """The row as queries on keys: [P C] on [P C] and [R] on [P R], pair by pair.

        With `only_rewards` every query is a single one, the last of its branch.
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
            torch.cat(keys).to(device),
            _cumulative(query_lengths).to(device),
            _cumulative(key_lengths).to(device),
            max(query_lengths),
            max(key_lengths),
        )


@dataclass(frozen=True)
class Segments:
    """What one variable-length attention call takes: [Tq] queries on [Tk] gathered keys.

    `key_index` holds the row's positions of all keys; `query_ends` and `key_ends` hold where each
    segment ends, from 0, as int32 [N + 1].
    """

    key_index: Tensor
    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int


def split_pairs(input_ids: Tensor, pad_token_id: int) -> list[Pair]:
    """Take a padded batch [2B, L] of TRL's collator, chosen half first, apart into its pairs.

    A classifier reads its output at the right-most token that is not the pad token, or at the first
    when there is none. What comes later cannot matter to a causal model and is cut off here.
    """
    ids = input_ids.cpu()  # one transfer; the layout is decided on the host
    positions = torch.arange(ids.shape[1])
    lengths = ((ids != pad_token_id) * positions).argmax(dim=1) + 1
    chosen, rejected = ids.chunk(2)
    chosen_lengths, rejected_lengths = lengths.chunk(2)
    common = (chosen == rejected).long().cumprod(dim=1).sum(dim=1)
    prefixes = torch.minimum(torch.minimum(common, chosen_lengths), rejected_lengths)
    return [
        Pair(c[:c_length], r[prefix:r_length], prefix)
        for c, r, c_length, r_length, prefix in zip(
            chosen,
            rejected,
            chosen_lengths.tolist(),
            rejected_lengths.tolist(),
            prefixes.tolist(),
            strict=True,
        )
    ]


def pack_row(pairs: Sequence[Pair], device: torch.device | str = "cpu") -> PackedRow:
    """Lay pairs out in one row on `device`."""
    ids: list[Tensor] = []
    positions: list[Tensor] = []
    ends: list[int] = []
    lengths: list[tuple[int, int, int]] = []
    end = 0
    for pair in pairs:
        prefix, chosen, tail = pair.prefix_length, len(pair.chosen), len(pair.rejected_tail)
        ids += [pair.chosen, pair.rejected_tail]
        positions += [torch.arange(chosen), torch.arange(prefix, prefix + tail)]
        chosen_end = end + chosen - 1
        rejected_end = end + chosen + tail - 1 if tail else end + prefix - 1
        ends += [chosen_end, rejected_end]
        end += chosen + tail
        lengths.append((prefix, chosen - prefix, tail))
    return PackedRow(
        torch.cat(ids).unsqueeze(0).to(device),
        torch.cat(positions).unsqueeze(0).to(device),
        torch.tensor(ends, device=device),
        tuple(lengths),
    )


def chunk_pairs(pairs: Sequence[Pair], token_budget: int | None) -> Iterator[list[Pair]]:
    """Split a batch, in its order, into chunks of at most `token_budget` tokens.

    A pair that alone is over the budget makes a chunk of its own; None means one chunk.
    """
    chunk: list[Pair] = []
    used = 0
    for pair in pairs:
        if chunk and token_budget is not None and used + pair.token_count > token_budget:
            yield chunk
            chunk, used = [], 0
        chunk.append(pair)
        used += pair.token_count
    yield chunk


def _cumulative(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
