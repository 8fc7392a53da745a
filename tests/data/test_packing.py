import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.base.errors import UserError
from lab.data.stream.packing import Packer, document_numbers, learned

DOCUMENTS = st.lists(st.lists(st.integers(1, 2**32 - 1), max_size=40), max_size=12)


def arrays(documents):
    return [np.array(tokens, dtype=np.uint32) for tokens in documents]


@given(documents=DOCUMENTS, block_length=st.integers(2, 17))
def test_blocks_and_remainder_are_the_documents_with_their_ends(documents, block_length):
    packer = Packer(block_length, end_of_document=0)
    blocks = [block for tokens in arrays(documents) for block in packer.add(tokens)]
    assert all(block.tokens.shape == (block_length,) and block.tokens.dtype == np.uint32 for block in blocks)
    assert len(packer.remainder.tokens) < block_length
    expected = [token for tokens in documents for token in [*tokens, 0]]
    assert np.concatenate([*(block.tokens for block in blocks), packer.remainder.tokens]).tolist() == expected


@given(documents=DOCUMENTS, block_length=st.integers(2, 17))
def test_every_token_of_a_block_keeps_its_document(documents, block_length):
    packer = Packer(block_length, end_of_document=0)
    blocks = [block for tokens in arrays(documents) for block in packer.add(tokens)]
    owners = [number for number, tokens in enumerate(documents) for _ in range(len(tokens) + 1)]
    for index, block in enumerate([*blocks, packer.remainder]):
        mine = owners[index * block_length :][: len(block.tokens)]
        starts = [
            place for place in range(len(mine)) if owner_before(owners, index * block_length + place) != mine[place]
        ]
        assert block.starts.tolist() == starts
        assert block.starts.dtype == np.int32
        if mine:
            numbers = document_numbers(block.starts, len(mine))
            assert numbers.tolist() == [owner - mine[0] for owner in mine]
            assert numbers.dtype == np.int32


def owner_before(owners, place):
    return owners[place - 1] if place else -1


@given(documents=DOCUMENTS, block_length=st.integers(2, 17), cut=st.integers(0, 12))
def test_a_packer_given_only_the_remainder_goes_on_as_the_first_would(documents, block_length, cut):
    first = Packer(block_length, 0)
    for tokens in arrays(documents[:cut]):
        first.add(tokens)
    second = Packer(block_length, 0, first.remainder)
    for tokens in arrays(documents[cut:]):
        for one, other in zip(first.add(tokens), second.add(tokens), strict=True):
            np.testing.assert_array_equal(one.tokens, other.tokens)
            np.testing.assert_array_equal(one.starts, other.starts)
    np.testing.assert_array_equal(first.remainder.tokens, second.remainder.tokens)
    np.testing.assert_array_equal(first.remainder.starts, second.remainder.starts)


@st.composite
def prompted(draw):
    """Documents, and of each how many of its first tokens are a prompt."""
    documents = draw(DOCUMENTS)
    return documents, [draw(st.integers(0, len(tokens))) for tokens in documents]


@given(prompted=prompted(), block_length=st.integers(2, 17))
def test_learned_are_all_tokens_but_those_of_prompts_wherever_blocks_are_cut(prompted, block_length):
    documents, prompts = prompted
    packer = Packer(block_length, end_of_document=0)
    both = zip(arrays(documents), prompts, strict=True)
    blocks = [block for tokens, prompt in both for block in packer.add(tokens, prompt)]
    expected = [
        place >= prompt for tokens, prompt in zip(documents, prompts, strict=True) for place in range(len(tokens) + 1)
    ]
    found = [learned(block.prompts, len(block.tokens)) for block in [*blocks, packer.remainder]]
    assert np.concatenate(found).tolist() == expected
    for block in [*blocks, packer.remainder]:
        assert block.prompts.dtype == np.int32
        assert block.prompts.shape[1] == 2
        assert all(0 <= first < behind <= len(block.tokens) for first, behind in block.prompts)


@given(prompted=prompted(), block_length=st.integers(2, 17), cut=st.integers(0, 12))
def test_a_packer_given_only_the_remainder_goes_on_with_its_prompts(prompted, block_length, cut):
    documents, prompts = prompted
    both = [*zip(arrays(documents), prompts, strict=True)]
    first = Packer(block_length, 0)
    for tokens, prompt in both[:cut]:
        first.add(tokens, prompt)
    second = Packer(block_length, 0, first.remainder)
    for tokens, prompt in both[cut:]:
        for one, other in zip(first.add(tokens, prompt), second.add(tokens, prompt), strict=True):
            np.testing.assert_array_equal(one.tokens, other.tokens)
            np.testing.assert_array_equal(one.prompts, other.prompts)
    np.testing.assert_array_equal(first.remainder.prompts, second.remainder.prompts)


# Documents that stay whole.


@given(prompted=prompted(), block_length=st.integers(2, 50))
def test_whole_documents_lie_each_in_one_block_and_what_fills_a_block_up_is_not_learned(prompted, block_length):
    fitting = [pair for pair in zip(*prompted, strict=True) if len(pair[0]) < block_length]
    packer = Packer(block_length, end_of_document=0, whole=True)
    blocks = [block for tokens, prompt in fitting for block in packer.add(np.array(tokens, dtype=np.uint32), prompt)]
    assert all(block.tokens.shape == (block_length,) for block in blocks)
    left = iter(fitting)
    for number, block in enumerate([*blocks, packer.remainder]):
        marked = learned(block.prompts, len(block.tokens)).tolist()
        end = 0
        for start in block.starts.tolist():
            tokens, prompt = next(left)
            end = start + len(tokens) + 1
            assert block.tokens[start:end].tolist() == [*tokens, 0]
            assert marked[start:end] == [place >= prompt for place in range(len(tokens) + 1)]
        filled = len(block.tokens) - end
        assert block.tokens[end:].tolist() == [0] * filled
        assert marked[end:] == [False] * filled
        if filled:  # no sooner than it had to be
            following = next(iter((blocks + [packer.remainder])[number + 1].starts.tolist()))
            assert following == 0
    assert next(left, None) is None


@given(documents=DOCUMENTS, block_length=st.integers(41, 90), cut=st.integers(0, 12))
def test_a_packer_of_whole_documents_given_only_the_remainder_goes_on_as_the_first_would(documents, block_length, cut):
    first = Packer(block_length, 0, whole=True)
    for tokens in arrays(documents[:cut]):
        first.add(tokens)
    second = Packer(block_length, 0, first.remainder, whole=True)
    for tokens in arrays(documents[cut:]):
        for one, other in zip(first.add(tokens), second.add(tokens), strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_document_that_no_block_has_room_for_is_refused_by_name():
    packer = Packer(5, 0, whole=True)
    assert packer.add(np.arange(1, 5, dtype=np.uint32), name="a") != []
    with pytest.raises(UserError, match=r"^b: 6 tokens with its end, and it has to stand whole in a block of 5"):
        packer.add(np.arange(1, 6, dtype=np.uint32), name="b")
