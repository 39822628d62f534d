"""What holds for all tests."""

import os
import signal

# Children import what is installed, and not the checkout in which they are started (python -P): the C is only there.
os.environ["PYTHONSAFEPATH"] = "1"

# A shell starts what runs in the background with SIGINT ignored, nohup with SIGHUP, and children inherit that: both
# would be tested on programs that never hear them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
