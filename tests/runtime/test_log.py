"""Two logs: metrics that a resume can cut, events with the clock, and neither lost to a full disk."""

import json
import resource
import time

import pytest

from alexnet.core.errors import UserError
from alexnet.runtime.log import Clock, NullReporter, RunLog, read_lines, stage


def test_metrics_and_events_are_lines_of_json(tmp_path):
    before = time.time()
    with RunLog(tmp_path) as log:
        log.metrics(step=1, loss=0.1)
        log.event("start", note="ä")
        assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1, "loss": 0.1}\n'  # there at once
    (event,) = read_lines(tmp_path / "events.jsonl")
    assert event.keys() == {"time", "event", "note"}
    assert (event["event"], event["note"]) == ("start", "ä")
    assert before - 0.01 <= event["time"] <= time.time() + 0.01


def test_metrics_hold_no_clock_and_repeat_bit_for_bit(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with RunLog(tmp_path / name) as log:
            log.metrics(step=3, loss=1 / 3, rate=1e-5)
    one, other = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("one", "other"))
    assert one == other
    assert json.loads(one)["loss"] == 1 / 3


def test_a_mark_is_where_a_resume_cuts(tmp_path):
    with RunLog(tmp_path) as log:
        log.metrics(step=1)
        mark = log.mark()
        log.metrics(step=2)
    assert mark == len(b'{"step": 1}\n')
    with RunLog(tmp_path) as log:
        assert log.cut(mark)
        log.metrics(step=20)
        assert log.mark() == mark + len(b'{"step": 20}\n')
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 20]


def test_a_file_that_became_shorter_is_kept_as_it_is(tmp_path):
    with RunLog(tmp_path) as log:
        log.metrics(step=1)
        assert not log.cut(1000)
        log.metrics(step=2)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]


@pytest.mark.parametrize("tail", [b'{"step": 3', b'{"step": "\xff', b"\x00\x00"])
def test_a_last_line_that_was_cut_short_is_left_out(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "text": "a\xe2\x80\xa8b"}\n' + tail)  # U+2028 ends no line
    assert [line["step"] for line in read_lines(path)] == [1, 2]


def test_a_damaged_line_hides_none_of_the_others(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event": "start"}\n{"event": "spe\n[]\n3\n\x00\xff\n{"event": "diverged"}\n')
    assert [line["event"] for line in read_lines(path)] == ["start", "diverged"]


def test_what_a_full_disk_refuses_is_written_later(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunLog(tmp_path) as log:
        log.metrics(step=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))  # room for one line and a half
        try:
            log.metrics(step=2)
            log.metrics(step=3)
            with pytest.raises(OSError, match="File too large"):
                log.mark()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.metrics(step=4)
        assert log.mark() == (tmp_path / "metrics.jsonl").stat().st_size
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"cannot write the log .*absent.events\.jsonl: No such file"):
        RunLog(tmp_path / "absent")


def test_a_stage_ends_however_its_work_ends(notes):
    with pytest.raises(RuntimeError), stage(notes, "work", 10, 3):
        notes.advance(4)
        raise RuntimeError
    assert notes.calls == [("begin", "work", 10, 3), ("advance", 4, {}), ("finish",)]
    with stage(NullReporter(), "work", 1):
        pass


def test_a_clock_counts_all_sittings_and_only_work_in_its_rate(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = Clock(earlier=50.0)
    now = 102.0
    clock.count(10)
    assert (clock.total, clock.rate) == (52.0, 5.0)
    now = 110.0  # an evaluation
    clock.restart()
    now = 111.0
    clock.count(7)
    assert (clock.total, clock.rate) == (61.0, 7.0)


def test_a_lap_is_the_rate_since_the_last_and_not_since_the_beginning(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(earlier=0.0)
    rates = []
    for seconds, images in ((10.0, 10), (1.0, 100), (2.0, 100)):
        now[0] += seconds
        clock.count(images)
        rates.append(clock.lap())
    assert rates == [1.0, 100.0, 50.0]
    assert clock.rate == pytest.approx(210 / 13)
    clock.restart()
    now[0] += 1.0
    clock.count(3)
    assert clock.lap() == 3.0
