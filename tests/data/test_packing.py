import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lab.data.stream.packing import Packer, document_numbers

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
