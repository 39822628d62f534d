"""What pyproject.toml cannot say: the C extension, and one wheel for every Python from 3.11 on."""

import contextlib
import sys
import sysconfig

from setuptools import setup
from setuptools.command.build_ext import build_ext

# Off Linux memwatch is pure Python: psutil looks instead. A free-threaded Python has no stable ABI.
LINUX = sys.platform.startswith("linux")
ABI3 = LINUX and not sysconfig.get_config_var("Py_GIL_DISABLED")


class BesideTheSources(build_ext):
    """
    Leaves the extension in the checkout too.

    Python looks in the folder where it is started first: after `pip install .` there, `import memwatch` would find
    the sources, and no C.
    """

    def run(self) -> None:
        super().run()
        with contextlib.suppress(OSError):  # a checkout that may not be written: what is installed works elsewhere
            self.copy_extensions_to_source()


setup(
    cffi_modules=["csrc/ffi_build.py:builder"] if LINUX else [],
    cmdclass={"build_ext": BesideTheSources},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
