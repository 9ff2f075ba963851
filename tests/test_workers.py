"""Batches side by side give what one after the other gives, each with tools of its own."""

import threading

import pytest
import torch

from kprune.engine.workers import MOST, side_by_side

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

    made = iter(range(20))
    with side_by_side(CPU, lambda: next(made)) as run:
        results = run(lambda tool, item: (item, torch.get_num_threads()), items())
        assert next(results) == (0, threads // workers)
        assert len(taken) <= workers + 1  # not all items at once
        assert [item for item, _ in results] == list(range(1, 20))
    assert next(made) == workers, "one set of tools for each worker"


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_workers_take_no_gradients_and_have_threads_of_their_own(threads):
    weight = torch.ones(2, requires_grad=True)
    meet = threading.Barrier(2)

    def work(tool, _):
        meet.wait(60)  # which only two at once can pass
        tool.append(threading.get_ident())
        return id(tool), threading.get_ident(), (weight * 2).requires_grad

    with side_by_side(CPU, list) as run:
        tools, idents, gradients = zip(*run(work, range(4)), strict=True)
    assert len(set(tools)) == len(set(idents)) == 2
    assert threading.get_ident() not in idents and not any(gradients)


def test_an_error_in_a_worker_is_raised_where_its_result_is_taken(threads):
    def work(_, item):
        if item == 3:
            raise ValueError("item 3")
        return item

    with pytest.raises(ValueError, match="item 3"), side_by_side(CPU, list) as run:
        list(run(work, range(10)))
    with side_by_side(CPU, list) as run:  # and the next one works
        assert list(run(work, range(3))) == [0, 1, 2]
