"""Which connections a worker lets go, so that all have their share."""

import pytest

from serving.server.balance import MAX_WORKERS, ConnectionBalancer, ConnectionCounts


def worker(seats: ConnectionCounts, connections: int) -> ConnectionBalancer:
    taken = seats.claim(lambda: True)
    assert taken
    balancer = ConnectionBalancer(seats.counts, taken[0], is_replacement=taken[1])
    balancer.update(connections)
    return balancer


def let_go(balance: ConnectionBalancer, connections: int, now: float = 1.0) -> int:
    """Of so many answers in a row."""
    return sum(balance.should_close(now, connections) for _ in range(connections))


@pytest.mark.parametrize(
    ("mine", "others", "gone"),
    [
        (8, [0], 4),
        (5, [3], 1),
        (4, [4], 0),
        (3, [5], 0),
        (5, [4], 0),  # an odd one is somebody's
        (34, [30], 0),  # a sixteenth more than the share is near enough
        (35, [29], 3),
        (12, [0, 0], 8),
        (7, [], 0),
    ],
)
def test_who_has_more_than_its_share_lets_the_surplus_go(mine: int, others: list[int], gone: int) -> None:
    seats = ConnectionCounts()
    me = worker(seats, mine)
    for connections in others:
        worker(seats, connections)
    assert let_go(me, mine) == gone


def test_a_worker_looks_now_and_then() -> None:
    seats = ConnectionCounts()
    me, other = worker(seats, 8), worker(seats, 0)
    assert let_go(me, 8) == 4
    assert let_go(me, 8, now=1.05) == 0, "those let go are still on their way"
    other.update(4)
    assert let_go(me, 4, now=1.2) == 0


def test_who_cannot_answer_yet_is_sent_nobody() -> None:
    seats = ConnectionCounts()
    me, other = worker(seats, 8), worker(seats, 0)
    other.ready = lambda: False
    other.update(0)
    assert let_go(me, 8) == 0
    other.ready = lambda: True
    other.publish()
    assert let_go(me, 8, now=2.0) == 4


def test_the_seat_of_a_dead_worker_is_taken_again() -> None:
    seats = ConnectionCounts()
    alive = [True, True]
    assert seats.claim(lambda: alive[0]) == (0, False)
    assert seats.claim(lambda: alive[1]) == (1, False)
    seats.counts[0] = 8
    alive[0] = False
    assert seats.claim(lambda: True) == (0, True)
    assert seats.counts[0] < 0, "its connections went with it"


def test_there_is_no_seat_for_more_workers_than_were_thought_of() -> None:
    seats = ConnectionCounts()
    assert all(seats.claim(lambda: True) for _ in range(MAX_WORKERS))
    assert seats.claim(lambda: True) is None


def test_while_nobody_is_ready_nobody_is_sent_away() -> None:
    seats = ConnectionCounts()
    me = worker(seats, 8)
    me.ready = lambda: False
    assert let_go(me, 8) == 0


def test_who_is_gone_or_going_has_no_share() -> None:
    seats = ConnectionCounts()
    me, going, _ = worker(seats, 8), worker(seats, 8), worker(seats, 0)
    seats.release(2)
    assert let_go(me, 8) == 0
    going.withdraw()
    going.update(3)
    assert let_go(me, 8, now=2.0) == 0
