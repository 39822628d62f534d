"""What holds for all tests."""

import os

# Children import what is installed, and not the checkout in which they are started (python -P): the C is only there.
os.environ["PYTHONSAFEPATH"] = "1"
