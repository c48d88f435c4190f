import gc
import os

import numpy as np
import pytest

from maxsearch.data.shared import Places, Reader

SHAPE = (3, 5, 7)


def test_a_place_is_read_where_it_was_written_and_used_again_when_let_go():
    places, reader = Places(SHAPE, 2), Reader()
    for round in range(5):
        written, ticket = places.take()
        written[...] = round
        found = reader.open(ticket, SHAPE)
        assert (found.shape, found.dtype) == (SHAPE, np.uint8)
        np.testing.assert_array_equal(found, round)
        written[0] = 99  # the same memory
        assert (found[0] == 99).all()
        del found


def test_a_part_of_an_array_keeps_its_place():
    places, reader = Places(SHAPE, 2), Reader()
    parts = []
    for number in (1, 2):
        written, ticket = places.take()
        written[...] = number
        parts.append(reader.open(ticket, SHAPE)[1:].reshape(-1)[:4].view(np.int8))
    gc.collect()
    assert places.take() is None
    assert [part.tolist() for part in parts] == [[1] * 4, [2] * 4]
    del parts[0]
    gc.collect()
    written, _ = places.take()
    written[...] = 3
    assert places.take() is None
    assert parts[0].tolist() == [2] * 4


def test_a_writer_that_is_gone_is_an_error():
    _, ticket = Places(SHAPE, 1).take()
    ticket[1] = os.sysconf("SC_OPEN_MAX") + 1
    with pytest.raises(OSError):
        Reader().open(ticket, SHAPE)
