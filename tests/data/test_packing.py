import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lab.data.packing import Packer

DOCUMENTS = st.lists(st.lists(st.integers(1, 2**32 - 1), max_size=40), max_size=12)


@given(documents=DOCUMENTS, block_length=st.integers(2, 17))
def test_blocks_and_remainder_are_the_documents_with_their_ends(documents, block_length):
    packer = Packer(block_length, end_of_document=0)
    blocks = [block for tokens in documents for block in packer.add(np.array(tokens, dtype=np.uint32))]
    assert all(block.shape == (block_length,) and block.dtype == np.uint32 for block in blocks)
    assert len(packer.remainder) < block_length
    expected = [token for tokens in documents for token in [*tokens, 0]]
    assert np.concatenate([*blocks, packer.remainder]).tolist() == expected


@given(documents=DOCUMENTS, block_length=st.integers(2, 17), cut=st.integers(0, 12))
def test_a_packer_given_only_the_remainder_goes_on_as_the_first_would(documents, block_length, cut):
    arrays = [np.array(tokens, dtype=np.uint32) for tokens in documents]
    first, second = Packer(block_length, 0), Packer(block_length, 0)
    for tokens in arrays[:cut]:
        first.add(tokens)
    second.remainder = first.remainder
    for tokens in arrays[cut:]:
        np.testing.assert_array_equal(first.add(tokens), second.add(tokens))
    np.testing.assert_array_equal(first.remainder, second.remainder)
