"""Finds a regular expression in texts. It is run as a process of its own, so that it can be stopped.

Python's regular expressions may need years for one text, and nothing but the end of the process stops them.
The process imports nothing else, so it starts in some milliseconds. Each line that it reads and writes is
JSON: first the expression, answered by null or by what is wrong with it; then lists of texts, each answered
by the positions of those in which it is found.
"""

import json
import re
import sys


def main() -> None:
    """Read the expression and texts until there are no more."""
    try:
        regex = re.compile(json.loads(sys.stdin.readline()), re.MULTILINE)
    except (re.error, RecursionError, OverflowError) as error:
        _say(str(error))
        return
    _say(None)
    for line in sys.stdin:
        _say([number for number, text in enumerate(json.loads(line)) if regex.search(text)])


def _say(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
