# cffi makes these at build time from csrc/memwatch.h; ffi_build.py says how.
from typing import Any

ffi: Any
lib: Any
