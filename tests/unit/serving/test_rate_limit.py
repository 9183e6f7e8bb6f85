"""How often a key may ask, counted in memory that processes share."""

import multiprocessing

import pytest

from serving.auth import rate_limit
from serving.auth.rate_limit import Rate, RateLimiter

RATE = Rate(per_second=2, burst=4)


def waits(rates: RateLimiter, times: int, now: float, key: str = "one", rate: Rate = RATE) -> list[float]:
    return [round(rates.acquire(key, rate, now).wait, 6) for _ in range(times)]


def test_a_burst_passes_and_then_one_each_half_second() -> None:
    rates = RateLimiter()
    assert waits(rates, 5, 100) == [0, 0, 0, 0, 0.5]
    assert waits(rates, 3, 101) == [0, 0, 0.5]
    assert waits(rates, 5, 1000) == [0, 0, 0, 0, 0.5], "no more than the burst is ever saved"


def test_who_is_refused_loses_nothing_by_it() -> None:
    rates = RateLimiter()
    waits(rates, 4, 100)
    assert waits(rates, 9, 100) == [0.5] * 9
    assert waits(rates, 1, 100.5) == [0]


def test_what_is_left_is_told() -> None:
    rates = RateLimiter()
    results = [rates.acquire("one", RATE, 100) for _ in range(5)]
    assert [(t.remaining, t.reset) for t in results] == [(3, 0.5), (2, 1.0), (1, 1.5), (0, 2.0), (0, 2.0)]
    assert dict(rate_limit.headers(RATE, results[1])) == {
        b"ratelimit-policy": b'"key";q=4;w=2',
        b"ratelimit": b'"key";r=2;t=1',
    }


def test_each_key_has_its_own_and_a_new_rate_begins_anew() -> None:
    rates = RateLimiter()
    assert waits(rates, 5, 100)[-1] == 0.5
    assert waits(rates, 4, 100, key="other") == [0] * 4
    assert waits(rates, 1, 100, rate=Rate(2, 5)) == [0]


def test_processes_count_together() -> None:
    rates = RateLimiter()

    def ask() -> None:
        waits(rates, 3, 100)

    other = multiprocessing.get_context("fork").Process(target=ask)
    other.start()
    other.join()
    assert waits(rates, 2, 100) == [0, 0.5]


def test_more_keys_than_there_are_places_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "_SLOTS", 16)
    rates = RateLimiter()
    for number in range(17):
        assert waits(rates, 4, 100 + number / 1000, key=str(number)) == [0] * 4
    known = [waits(rates, 1, 100.1, key=str(number))[0] > 0 for number in range(1, 17)]
    assert all(known), "the one whose bucket was fullest gave way"
