"""A signal that comes at any moment ends a command with an exit code, and never kills Python."""

import signal
import subprocess
import sys

import pytest

# Sends a signal to itself just before the signals are ignored, when the command has ended.
LATE = """
import os, sys
import _signal
from mlx_colbert import cli

sys.argv = ["mlx-colbert", "completion", "bash"]
set_handler, n_sent = _signal.signal, 0

def late(number, handler):
    global n_sent
    if handler is _signal.SIG_IGN and not n_sent:
        n_sent += 1
        os.kill(os.getpid(), NUMBER)
    return set_handler(number, handler)

cli.signal = type(sys)("signal")
vars(cli.signal).update(vars(_signal), signal=late)
cli._end = lambda code: None
sys.exit(cli.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_after_the_command_has_ended_does_not_change_its_code(number):
    program = LATE.replace("NUMBER", str(int(number)))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
