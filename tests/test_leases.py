"""What the soak of the GPUs' leases would see."""

from __future__ import annotations

from leases import Lease, by_gpu, given_twice, shortest_gap


def _lease(run: str, gpus: str, begins: float, last: float, node: str = "a") -> Lease:
    ids = tuple(gpus.split())
    return Lease(run, node, ids, ids, round(begins * 1e9), round(last * 1e9), ended=True)


def test_leases_one_after_the_other_are_fine() -> None:
    found = [_lease("third", "0 1", 9, 12), _lease("first", "0", 1, 3), _lease("second", "1", 2, 8.5)]
    assert given_twice(found) == []
    assert shortest_gap(found) == 0.5
    assert {gpu: [lease.run for lease in given] for gpu, given in by_gpu(found).items()} == {
        "a/0": ["first", "third"],
        "a/1": ["second", "third"],
    }


def test_the_same_gpu_of_another_node_is_another_one() -> None:
    assert given_twice([_lease("first", "0", 1, 3), _lease("second", "0", 2, 4, node="b")]) == []


def test_a_gpu_that_two_runs_have_is_named() -> None:
    assert given_twice([_lease("first", "0", 1, 3), _lease("second", "0 1", 2.5, 4)]) == [
        "a/0 was still first's, for 500 ms, when second had it"
    ]


def test_a_long_lease_is_compared_with_all_that_come_in_it() -> None:
    found = [_lease("long", "0", 1, 9), _lease("short", "0", 2, 3), _lease("later", "0", 4, 5)]
    assert given_twice(found) == [
        "a/0 was still long's, for 7000 ms, when short had it",
        "a/0 was still long's, for 5000 ms, when later had it",
    ]
