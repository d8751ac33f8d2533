"""Restarts of a server: growing pauses, five at most, and a new beginning after ten minutes."""

from gvm_cli.restarts import Restarts


def test_pauses_double_and_after_five_restarts_there_is_none() -> None:
    now = [100.0]
    restarts = Restarts(clock=lambda: now[0])
    restarts.started()
    for pause in (1.0, 2.0, 4.0, 8.0, 16.0):
        assert restarts.ended() == pause
        assert restarts.is_waiting
        now[0] += pause - 0.5
        assert not restarts.is_due
        now[0] += 0.5
        assert restarts.is_due
        restarts.started()
        assert not restarts.is_waiting
        assert not restarts.is_due
        now[0] += 599.0
    assert restarts.ended() is None


def test_ten_minutes_of_running_are_a_new_beginning() -> None:
    now = [0.0]
    restarts = Restarts(clock=lambda: now[0])
    for _ in range(20):
        restarts.started()
        now[0] += 600.0
        assert restarts.ended() == 1.0
        now[0] += 1.0


def test_time_spent_waiting_for_a_port_is_no_time_of_running() -> None:
    now = [0.0]
    restarts = Restarts(clock=lambda: now[0])
    restarts.started()
    pauses = []
    for _ in range(6):
        pauses.append(restarts.ended())
        now[0] += 700.0
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, None]
