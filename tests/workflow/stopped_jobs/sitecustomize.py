"""A job of a run stops at a named point of its work, and waits there for the signal of a test.

Python imports this module when it starts, if its folder is on PYTHONPATH. The point is the first
audit event (https://docs.python.org/3/library/audit_events.html) of the job whose name is
STOP_EVENT and whose first argument contains STOP_TEXT; the job writes its number to STOP_MARK and
stops.
"""

import os
import signal
import sys


class Stop:
    """An audit hook that acts once."""

    def __init__(self, event, text, mark):
        self.event, self.text, self.mark = event, text, mark

    def __call__(self, event, arguments):
        if event != self.event or not self.mark or self.text not in str(arguments[0]):
            return
        mark, self.mark = self.mark, None
        with open(mark, "w") as file:
            file.write(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)


if "vitals" in sys.orig_argv and "STOP_EVENT" in os.environ:  # a job, and not Snakemake
    sys.addaudithook(
        Stop(os.environ["STOP_EVENT"], os.environ["STOP_TEXT"], os.environ["STOP_MARK"])
    )
