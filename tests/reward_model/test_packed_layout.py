import torch
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.reward_trainer import DataCollatorForPreference

from tests.model_factories.reward_trainers import PAD, make_rows
from worker.reward_model.packed_layout import pack_groups, split_batch, split_replies

lengths = st.tuples(st.integers(1, 12), st.integers(0, 9), st.integers(0, 9))


def split(rows):
    return split_batch(DataCollatorForPreference(pad_token_id=PAD)(rows)["input_ids"], PAD)


def test_row_holds_the_prefix_once_and_positions_start_again_after_it():
    row = pack_groups(split([{"chosen_ids": [5, 6, 7, 8], "rejected_ids": [5, 6, 9]}]))

    assert row.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 2]]
    assert row.reward_index.tolist() == [3, 4]
    assert row.lengths == ((2, 2, 1),)


def test_pairs_follow_each_other_without_padding():
    rows = [
        {"chosen_ids": [5, 6], "rejected_ids": [7, 8, 9]},
        {"chosen_ids": [5, 6, 7], "rejected_ids": [5, 4]},
    ]
    row = pack_groups(split(rows))

    assert row.input_ids.tolist() == [[5, 6, 7, 8, 9, 5, 6, 7, 4]]
    assert row.position_ids.tolist() == [[0, 1, 0, 1, 2, 0, 1, 2, 1]]
    assert row.reward_index.tolist() == [1, 4, 7, 8]


def test_identical_replies_are_computed_once():
    row = pack_groups(split([{"chosen_ids": [5, 6], "rejected_ids": [5, 6]}]))

    assert row.input_ids.tolist() == [[5, 6]]
    assert row.reward_index.tolist() == [1, 1]


def test_reward_of_a_prefix_of_the_chosen_reply_is_read_within_it():
    row = pack_groups(split([{"chosen_ids": [5, 6, 7], "rejected_ids": [5, 6]}]))

    assert row.input_ids.tolist() == [[5, 6, 7]]
    assert row.reward_index.tolist() == [2, 1]


def test_trailing_pad_tokens_are_cut_off_as_a_classifier_ignores_them():
    pairs = split([{"chosen_ids": [5, 6, PAD], "rejected_ids": [5, PAD, 7, PAD, PAD]}])

    assert pairs[0].first.tolist() == [5, 6]
    assert pairs[0].tails[0].tolist() == [PAD, 7]


def test_reply_of_pad_tokens_keeps_its_first_token():
    pairs = split([{"chosen_ids": [PAD, PAD], "rejected_ids": [5]}])

    assert pairs[0].first.tolist() == [PAD]


@given(st.lists(lengths, min_size=1, max_size=6))
def test_every_reply_can_be_read_back_from_the_row(patterns):
    rows = make_rows(patterns)
    row = pack_groups(split(rows))
    ids, start = row.input_ids[0], 0
    for pair, (p, c, r) in zip(rows, row.lengths, strict=True):
        chosen = ids[start : start + p + c].tolist()
        tail = ids[start + p + c : start + p + c + r].tolist()
        assert chosen == pair["chosen_ids"]
        assert chosen[:p] + tail == pair["rejected_ids"]
        start += p + c + r
    assert start == row.token_count
    ends = row.position_ids[0][row.reward_index].view(-1, 2) + 1
    assert ends.tolist() == [[len(x["chosen_ids"]), len(x["rejected_ids"])] for x in rows]


@given(
    st.lists(
        st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=6), min_size=1, max_size=5),
        min_size=1,
        max_size=4,
    )
)
def test_any_number_of_replies_can_be_read_back_from_the_row(groups):
    row = pack_groups([split_replies(replies) for replies in groups])
    ids, rewards, start = row.input_ids[0].tolist(), row.reward_index.tolist(), 0
    for replies, (prefix, first, *tails) in zip(groups, row.lengths, strict=True):
        end, common = start + prefix + first, ids[start : start + prefix]
        found = [ids[start:end]]
        assert rewards.pop(0) == end - 1
        for tail in tails:
            found.append(common + ids[end : end + tail])
            end += tail
            assert rewards.pop(0) == (end - 1 if tail else start + prefix - 1)
        assert found == replies
        start = end
    assert start == row.token_count
    assert not rewards


def test_prefix_ends_at_the_first_difference_even_if_later_tokens_are_equal():
    pairs = split([{"chosen_ids": [5, 6, 9], "rejected_ids": [5, 7, 9]}])

    assert pairs[0].prefix_length == 1
    assert torch.equal(pairs[0].tails[0], torch.tensor([7, 9]))
