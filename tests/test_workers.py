"""Batches side by side give what one after the other gives; scratch memory is a stack."""

import threading
from itertools import pairwise

import pytest
import torch

from kprune.workers import MOST, PIECE, Scratch, side_by_side

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 6])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param  # as the test has left it
    torch.set_num_threads(before)


def test_results_come_in_order_and_items_as_late_as_possible(threads):
    workers, taken = min(threads, MOST), []

    def items():
        for item in range(20):
            taken.append(item)
            yield item

    with side_by_side(CPU) as run:
        results = run(lambda item: (item, torch.get_num_threads()), items())
        assert next(results) == (0, threads // workers)
        assert len(taken) <= workers + 1  # not all items at once
        assert [item for item, _ in results] == list(range(1, 20))


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_workers_take_no_gradients_and_have_threads_of_their_own(threads):
    weight = torch.ones(2, requires_grad=True)
    meet = threading.Barrier(2)

    def work(_):
        meet.wait(100)  # which only two at once can pass
        return threading.get_ident(), (weight * 2).requires_grad

    with side_by_side(CPU) as run:
        found = list(run(work, range(4)))
    assert {ident for ident, _ in found} - {threading.get_ident()}
    assert len({ident for ident, _ in found}) == 2 and not any(grad for _, grad in found)


def test_an_error_in_a_worker_is_raised_where_its_result_is_taken(threads):
    def work(item):
        if item == 3:
            raise ValueError("item 3")
        return item

    with pytest.raises(ValueError, match="item 3"), side_by_side(CPU) as run:
        list(run(work, range(10)))
    with side_by_side(CPU) as run:  # and the next one works
        assert list(run(work, range(3))) == [0, 1, 2]


def test_scratch_memory_is_given_back_at_the_end_of_a_block():
    scratch, like = Scratch(), torch.zeros(1, dtype=torch.float64)
    with scratch.block():
        first = scratch.take(like, (3, 5)).fill_(1.0)
        with scratch.block():
            inner = scratch.take(like, (2, 7)).fill_(2.0)
        again = scratch.take(like.float(), (28,)).fill_(3.0)
        assert again.data_ptr() == inner.data_ptr()  # the same place, in another type
        assert (first == 1.0).all() and first.dtype == torch.float64 and first.shape == (3, 5)
    with scratch.block():
        assert scratch.take(like, (1,)).data_ptr() == first.data_ptr()


def test_scratch_memory_grows_without_moving_what_is_there():
    scratch, like = Scratch(), torch.zeros(1, dtype=torch.uint8)
    with scratch.block():
        taken = [scratch.take(like, (PIECE // 2 - 65,)).fill_(number) for number in range(5)]
        large = scratch.take(like, (2 * PIECE,)).fill_(5)
        places = sorted((part.data_ptr(), len(part)) for part in [*taken, large])
        assert all(a + n <= b for (a, n), (b, _) in pairwise(places))
        assert all((part == number).all() for number, part in enumerate(taken))
    with scratch.block():  # the same places again
        again = [scratch.take(like, (len(part),)) for part in [*taken, large]]
        assert [part.data_ptr() for part in again] == [p.data_ptr() for p in [*taken, large]]
    assert scratch.take(like, (0,)).shape == (0,)
