"""Which open transactions are told, and when: those that stay, once each, and not too many."""

from structlog.testing import capture_logs

from worker.open_transactions import OpenTransactions
from worker.reach import Reach


def held(stable_end: int = 7, *, is_recent: bool = True) -> Reach:
    return Reach(handed_out=7, position=7, stable_end=stable_end, end=9, is_recent=is_recent)


FREE = held(9)


class Bench:
    def __init__(self) -> None:
        self.now_s = 100.0
        self._open = OpenTransactions("commands", lambda: self.now_s)

    def look(self, reach: Reach, after_s: float = 0, partition: int = 1) -> float:
        self.now_s += after_s
        return self._open.look(partition, reach)

    def stay(self, reach: Reach, seconds: int) -> float:
        return [self.look(reach, 1) for _ in range(seconds)][-1]

    def forget(self) -> None:
        self._open.forget()


def test_the_seconds_count_from_when_it_is_first_seen():
    it = Bench()
    assert [it.look(held()), it.look(held(), 2), it.look(held(), 3)] == [0, 2, 5]
    assert it.look(FREE, 1) == 0
    assert it.look(held(), 1) == 0


def test_one_transaction_after_the_other_holds_nobody_up():
    it = Bench()
    with capture_logs() as lines:
        assert {it.look(held(stable_end), 4) for stable_end in range(1, 9)} == {0}
    assert lines == []


def test_one_that_stays_is_told_once_and_so_is_its_end():
    it = Bench()
    with capture_logs() as lines:
        it.look(held())
        it.stay(held(), 9)
        assert lines == []
        it.stay(held(), 300)
        it.look(FREE)
        it.stay(FREE, 3)
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("transaction_stays_open", "warning"),
        ("transaction_ended", "info"),
    ]
    assert lines[0].items() >= {"topic": "commands", "partition": 1, "offset": 7, "waiting": 2, "open_s": 10}.items()
    assert lines[1].items() >= {"topic": "commands", "partition": 1, "offset": 7}.items()


def test_a_sender_that_leaves_one_open_again_and_again_costs_a_line_a_minute():
    it = Bench()
    with capture_logs() as lines:
        for stable_end in (1, 2, 3, 4, 5, 6):
            it.look(held(stable_end), 1)
            it.stay(held(stable_end), 20)
    told = [line["offset"] for line in lines if line["event"] == "transaction_stays_open"]
    assert told == [1, 4]


def test_without_an_answer_of_a_broker_nothing_is_known():
    it = Bench()
    with capture_logs() as lines:
        assert it.look(held()) == 0
        assert it.stay(held(), 5) == 5
        assert it.stay(held(is_recent=False), 30) == 0
        assert it.stay(held(), 3) == 2
    assert lines == []


def test_what_is_lost_is_forgotten():
    it = Bench()
    it.look(held())
    it.stay(held(), 5)
    it.forget()
    assert it.look(held(), 1) == 0
