"""How far a long call is: who is told, and where a bar shows it."""

import io

from mlx_colbert.progress import shown


def test_callback_of_the_caller_is_told_and_no_bar_is_shown(capsys):
    told = []
    with shown(lambda *step: told.append(step)) as progress:
        progress("encoding", 1, 2)
    assert told == [("encoding", 1, 2)] and capsys.readouterr().err == ""


def test_each_stage_has_a_bar_that_ends(capsys):
    with shown(show=True) as progress:
        progress("encoding", 0, 2)
        progress("encoding", 2, 2)
        progress("writing", 2500, 5000)
    told = capsys.readouterr().err
    assert "encoding: 100%" in told and "2/2" in told
    assert "writing:  50%" in told and "2.50k/5.00k" in told


def test_no_bar_is_shown_where_none_is_wanted_or_where_the_output_is_no_terminal(capsys):
    for show in (False, None):
        with shown(show=show) as progress:
            progress("encoding", 1, 2)
    assert capsys.readouterr().err == ""


def test_notebook_shows_a_bar_although_its_stream_is_no_terminal(monkeypatch):
    class Stream(io.StringIO):
        """What a notebook has as its standard error."""

    Stream.__module__ = "ipykernel.iostream"
    stream = Stream()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("mlx_colbert.progress._DELAY_S", 0)
    with shown() as progress:
        progress("encoding", 1, 2)
        progress("encoding", 2, 2)
    assert not stream.isatty() and "encoding: 100%" in stream.getvalue()
