"""Ranks that talk: over real sockets, between threads of this process; no collectives (see tests/journeys)."""

from __future__ import annotations

import contextlib
import json
import math
import select
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddlemae.data.batches import Batch, eval_batches
from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.disk.errors import DataFault
from paddlemae.data.sources import Source, open_source
from paddlemae.data.views.augment import View
from paddlemae.engine.cpus import LOCAL_SIZE, threads_of
from paddlemae.runs.runlog import read_skipped
from paddlemae.tasks.training.classification import evaluation_of
from paddlemae.tasks.training.run_training import _is_asked_to_stop
from paddlemae.tasks.training.skipped_images import SkippedImages, SkippedList
from paddlemae.tasks.training.training_batches import synchronise
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.parallel import ranks as ranks_module
from paddlemae.train.parallel.ranks import ALONE, Ranks, _admitted, _admitted_by_first, check_same
from paddlemae.train.stopping import EndedElsewhere, RankLost, Stop
from tests.support.connected_ranks import HOST, SOON, begin, close, meet, on_each, outcome


@pytest.fixture
def three() -> Iterator[list[Ranks]]:
    ranks = meet(3)
    lines = [Ranks(one.rank, one.world, one.rank, [*one.lines]) for one in ranks]  # they may leave
    yield ranks
    close(lines)


# ---------------------------------------------------------------- what they tell each other


def test_what_is_gathered_is_in_the_ranks_order_and_the_same_on_all(three) -> None:
    found = on_each(three, lambda one: one.gather({"rank": one.rank, "loss": [math.nan, math.inf, 0.1][one.rank]}))
    expected = [{"rank": 0, "loss": math.nan}, {"rank": 1, "loss": math.inf}, {"rank": 2, "loss": 0.1}]
    assert [repr(one) for one in found] == [repr(expected)] * 3
    assert on_each(three, lambda one: one.gather(None)) == [[None] * 3] * 3


def test_many_words_in_a_row_stay_in_order(three) -> None:
    def talk(one: Ranks) -> list[list[int]]:
        return [one.gather(10 * number + one.rank) for number in range(200)]

    expected = [[10 * number, 10 * number + 1, 10 * number + 2] for number in range(200)]
    assert on_each(three, talk) == [expected] * 3


def test_the_first_alone_makes_what_all_get(three) -> None:
    made: list[int] = []

    def make(one: Ranks) -> list[str]:
        made.append(one.rank)
        return ["a", "b"]

    assert on_each(three, lambda one: one.from_first(partial(make, one))) == [["a", "b"]] * 3
    assert made == [0]


def test_means_are_the_same_to_the_last_bit(three) -> None:
    values = [0.1, 1e16, -1e16]  # whose sum depends on the order
    found = on_each(three, lambda one: one.mean(values[one.rank]))
    assert found == [sum(values) / 3] * 3
    assert all(math.isnan(one) for one in on_each(three, lambda one: one.mean([1.0, math.nan, 2.0][one.rank])))


@pytest.mark.parametrize("who", [None, 0, 1, 2])
def test_what_is_so_on_any_rank_is_so_on_all(three, who: int | None) -> None:
    assert on_each(three, lambda one: one.any(one.rank == who)) == [who is not None] * 3


@pytest.mark.parametrize("late", [0, 1, 2])
def test_they_wait_for_the_one_that_is_late(three, late: int) -> None:
    early = [begin(one.wait) for one in three if one.rank != late]
    with pytest.raises(TimeoutError):
        early[0].result(0.1)
    assert not any(future.done() for future in early)
    three[late].wait()
    assert [outcome(future) for future in early] == [None, None]


def test_differences_are_named_on_all(three) -> None:
    assert on_each(three, lambda one: check_same(one, {"seed": 3, "images": 12})) == [None] * 3
    faults = on_each(three, lambda one: check_same(one, {"seed": 3, "images": 12 if one.rank < 2 else 11}))
    assert {type(fault) for fault in faults} == {ValueError}
    text = "all processes must have the same images; it is 12 on rank 0 and 11 on rank 2"
    assert [str(fault) for fault in faults] == [text] * 3
    faults = on_each(three, lambda one: check_same(one, {"lr": 1} if one.rank == 1 else {}))
    assert all("the same lr; it is None on rank 0 and 1 on rank 1" in str(fault) for fault in faults)


def test_one_process_alone_asks_nobody() -> None:
    gradient, model = paddle.to_tensor([1.0, 2.0]), paddle.nn.Linear(1, 1)
    ALONE.wait()
    ALONE.add_up([gradient])
    assert ALONE.is_first and ALONE.gather(5) == [5] and ALONE.mean(0.1) == 0.1
    assert ALONE.any(True) and not ALONE.any(False) and ALONE.from_first(lambda: "made") == "made"
    assert gradient.tolist() == [1.0, 2.0] and ALONE.parallel(model) is model
    check_same(ALONE, {"seed": 0})
    ALONE.end(1, "for no reason")
    ALONE.leave()
    assert ALONE.gather(5) == [5]


# ---------------------------------------------------------------- who is let in


def test_strangers_are_turned_away(monkeypatch) -> None:
    monkeypatch.setattr(ranks_module, "HELLO_SECONDS", 0.5)
    words = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"no end of line",
        b"\xff\xfe\x00\n",
        b"",
        b"[1]\n",
        b"null\n",
        b'{"rank": 1}\n',
        b'{"key": null, "rank": 1}\n',
        json.dumps({"key": "0" * 32, "rank": 1}).encode() + b"\n",
    ]
    connections: list[socket.socket] = []

    def come(address: dict[str, Any]) -> None:
        for number, said in enumerate([*words, None]):
            connections.append(socket.create_connection((address["host"], address["port"]), SOON))
            if said is not None:  # else it stays, and says nothing
                connections[-1].sendall(said)
                if number % 2:
                    connections[-1].shutdown(socket.SHUT_WR)

    ranks = meet(3, come)
    assert on_each(ranks, lambda one: one.gather(one.rank)) == [[0, 1, 2]] * 3
    for connection in connections:
        with connection:
            connection.settimeout(SOON)
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(100) == b""  # closed, and nothing said
    close(ranks)


def test_ranks_that_do_not_come_are_counted(monkeypatch) -> None:
    monkeypatch.setattr(ranks_module, "CONNECT_SECONDS", 0.05)
    with pytest.raises(RankLost, match=r"2 of 3 ranks did not connect within 0.05 s"):
        list(_admitted(HOST, 3, lambda text: None))


def test_a_first_rank_that_is_not_there_is_named() -> None:
    with socket.create_server((HOST, 0)) as server:
        address = {"host": HOST, "port": server.getsockname()[1], "key": "k"}
    with pytest.raises(RankLost, match=f"rank 0 can't be reached at {HOST}:{address['port']}"):
        _admitted_by_first(address, 1)


# ---------------------------------------------------------------- how they end


def die(one: Ranks) -> None:
    """What the system does with the connections of a process that is killed."""
    for line in one.lines:
        line.drop()


def command(one: Ranks) -> Any:
    """What a command does about an end: it tells the others."""
    try:
        return one.gather(one.rank)
    except (RankLost, EndedElsewhere) as fault:
        one.end(getattr(fault, "status", 1), str(fault))
        return fault


def test_when_the_first_dies_the_others_know(three) -> None:
    die(three[0])
    faults = on_each(three[1:], command)
    assert [(type(fault), str(fault)[:12]) for fault in faults] == [(RankLost, "lost rank 0:")] * 2


@pytest.mark.parametrize("dead", [1, 2])
def test_when_another_dies_all_know_at_once(three, dead: int) -> None:
    waiting = {one.rank: begin(partial(command, one)) for one in three if one.rank != dead}
    started = time.monotonic()
    die(three[dead])
    faults = {rank: outcome(future) for rank, future in waiting.items()}
    assert time.monotonic() - started < SOON
    assert isinstance(faults.pop(0), RankLost)
    (fault,) = faults.values()
    assert isinstance(fault, EndedElsewhere) and fault.status == 1 and f"rank 0: lost rank {dead}" in str(fault)


def test_what_comes_with_the_first_words_is_not_overlooked() -> None:
    """A rank that says who it is and sends more at once: both are read together, and the connection is silent then."""
    with (
        socket.create_server((HOST, 0)) as server,
        socket.create_connection(server.getsockname()) as theirs,
        server.accept()[0] as ours,
    ):
        line = ranks_module._Line(ours, 1)
        theirs.sendall(b'{"key": "x", "rank": 1}\n{"own": 7}\n')
        assert line.receive() == {"key": "x", "rank": 1} and line.has_message
        assert outcome(begin(lambda: Ranks(0, 2, 0, [line]).gather(3))) == [3, 7]


def test_a_death_is_noticed_while_another_rank_is_busy(three) -> None:
    waiting = begin(lambda: three[0].gather(None))
    close([three[2]])  # and rank 1 says nothing
    assert isinstance(outcome(waiting), RankLost)


@pytest.mark.parametrize("who", [0, 1, 2])
@pytest.mark.parametrize("status", [2, 75, 130])
@pytest.mark.parametrize("others_wait", [True, False])
def test_an_end_is_everybodys(three, who: int, status: int, others_wait: bool) -> None:
    others = [one for one in three if one.rank != who]
    waiting: list[Future] = []
    if others_wait:
        for one in reversed(others):  # the first rank last, so that what is sent to it can be seen to arrive
            waiting.append(begin(partial(command, one)))
            if one.rank:
                assert select.select([three[0].lines[one.rank - 1].connection], [], [], SOON)[0]
    ended = begin(lambda: three[who].end(status, "for a reason"))
    if not others_wait:
        told = three[0].lines[who - 1] if who else three[1].lines[0]
        assert select.select([told.connection], [], [], SOON)[0]
        waiting = [begin(partial(command, one)) for one in others]
    for future in waiting:
        fault = outcome(future)
        assert isinstance(fault, EndedElsewhere), fault
        assert (fault.status, str(fault)) == (status, f"rank {who}: for a reason")
    assert outcome(ended) is None
    assert three[who].lines == []


def test_a_good_end_takes_leave_of_all(three) -> None:
    def finish(one: Ranks) -> None:
        one.wait()
        one.leave()

    assert on_each(three, finish) == [None] * 3
    assert all(one.lines == [] for one in three)


def test_they_stop_after_the_same_step(three) -> None:
    stops = [Stop() for _ in three]

    def ask(one: Ranks) -> bool:
        return _is_asked_to_stop(stops[one.rank], one)

    assert on_each(three, ask) == [False] * 3
    stops[1].reason = "SIGTERM"
    assert on_each(three, ask) == [True] * 3
    assert [stop.reason for stop in stops] == ["SIGTERM"] * 3


# ---------------------------------------------------------------- images, shared out


@pytest.fixture
def source(photos: Path) -> Source:
    return open_source(str(photos))


def batch_of(index: int) -> Batch:
    return Batch(np.zeros((1, 3, 4, 4), np.uint8), None, np.array([index]), np.array([0]))


def counting(ranks: Sequence[Ranks], source: Source, folder: Path, limit: float) -> list[SkippedImages]:
    """A count on each rank, with a folder of its own to write into."""
    skipped = []
    for one in ranks:
        model = paddle.nn.Linear(1, 1)
        run = folder / str(one.rank)
        run.mkdir()
        state = TrainState(model, paddle.optimizer.SGD(parameters=model.parameters()))
        skipped.append(SkippedList(run, state, ranks=one).of(source, limit))
    return skipped


def test_bad_images_count_the_same_on_all_and_are_listed_once(three, source, tmp_path, capsys) -> None:
    skipped = counting(three, source, tmp_path, limit=1.0)
    met = {0: ["a.png"], 1: [], 2: ["b.png", "a.png"]}

    def share(one: Ranks) -> None:
        for path in met[one.rank]:
            skipped[one.rank](UnreadableImage(path, "damaged"))
        assert skipped[one.rank].reasons == {}  # nothing counts before all know of it
        skipped[one.rank].share()

    assert on_each(three, share) == [None] * 3
    kept = [each.kept for each in skipped]
    assert [each.state.skipped for each in kept if each] == [3] * 3
    assert [list(each.reasons) for each in skipped] == [["a.png", "b.png"]] * 3
    assert [line["path"] for line in read_skipped(tmp_path / "0")] == ["a.png", "b.png"]
    assert not list(tmp_path.glob("[12]/*"))
    assert on_each(three, lambda one: skipped[one.rank].share()) == [None] * 3  # nothing new
    assert [each.state.skipped for each in kept if each] == [3] * 3


def test_too_many_bad_images_end_all(three, source, tmp_path) -> None:
    skipped = counting(three, source, tmp_path, limit=0.01)  # 1 of 12

    def share(one: Ranks) -> None:
        if one.rank:
            skipped[one.rank](UnreadableImage(f"{one.rank}.png", "damaged"))
        skipped[one.rank].share()

    faults = on_each(three, share)
    assert {type(fault) for fault in faults} == {DataFault}
    assert all("2 of 12 images" in str(fault) and "'1.png'" in str(fault) for fault in faults)


def test_what_one_rank_cannot_read_ends_the_training_of_all(three, source, tmp_path) -> None:
    skipped = counting(three, source, tmp_path, limit=1.0)
    closed: list[int] = []

    def stream(rank: int) -> Iterator[Batch]:
        try:
            yield batch_of(rank)
            if rank == 1:
                raise DataFault("the disk is gone")
            yield batch_of(10 + rank)
        finally:
            closed.append(rank)

    def read(one: Ranks) -> Any:
        batches = synchronise(stream(one.rank), skipped[one.rank], one)  # type: ignore[arg-type]
        first = next(batches).indices.tolist()
        try:
            next(batches)
        except DataFault as fault:
            return first, str(fault)

    assert on_each(three, read) == [([rank], "the disk is gone") for rank in range(3)]
    assert sorted(closed) == [0, 1, 2]


def test_all_come_to_the_end_of_their_batches(three, source, tmp_path) -> None:
    skipped = counting(three, source, tmp_path, limit=1.0)

    def read(one: Ranks) -> list[int]:
        batches = iter([batch_of(3 * number + one.rank) for number in range(2)])
        return [int(batch.indices[0]) for batch in synchronise((b for b in batches), skipped[one.rank], one)]

    assert on_each(three, read) == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(("batch_size", "world"), [(5, 2), (4, 3), (12, 2), (1, 5), (7, 3)])
def test_evaluation_deals_every_image_out_once(source, batch_size: int, world: int) -> None:
    view = View(image_size=(8, 8), channels=3)
    shares = [
        [batch.indices.tolist() for batch in eval_batches(source, view, batch_size=batch_size, rank=rank, world=world)]
        for rank in range(world)
    ]
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(12))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_evaluation_of_ranks_is_that_of_one_process(three) -> None:
    dice = np.random.default_rng(0)
    indices, labels, logits = np.arange(41), dice.integers(0, 8, 41), dice.normal(size=(41, 8)).astype(np.float32)
    batches = [(indices[a : a + 6], labels[a : a + 6], logits[a : a + 6]) for a in range(0, 41, 6)]
    whole = evaluation_of(batches, 8)
    for found in on_each(three, lambda one: evaluation_of(batches[one.rank :: 3], 8, one)):
        assert found.metrics == whole.metrics and found.mistakes == whole.mistakes and len(found.mistakes) > 5
        np.testing.assert_array_equal(found.confusion.matrix(), whole.confusion.matrix())
    # a rank may have none at all, as long as another has some
    for found in on_each(three, lambda one: evaluation_of(batches if one.rank == 2 else [], 8, one)):
        assert found.metrics == whole.metrics
    assert {type(one) for one in on_each(three, lambda one: evaluation_of([], 8, one))} == {DataFault}


@pytest.mark.parametrize(("cpus", "processes", "threads"), [(8, "2", 4), (8, "3", 2), (2, "8", 1), (8, None, 8)])
def test_cores_are_shared_out_among_the_processes_of_a_host(monkeypatch, cpus, processes, threads) -> None:
    monkeypatch.setattr("paddlemae.engine.cpus.usable_cpus", lambda: cpus)
    if processes:
        monkeypatch.setenv(LOCAL_SIZE, processes)
    else:
        monkeypatch.delenv(LOCAL_SIZE, raising=False)
    assert threads_of("auto") == threads
    assert threads_of(3) == 3
