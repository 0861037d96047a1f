"""Calls functions of a C library with numpy arrays: reads calls from stdin, writes the arguments
as they are afterwards. Runs with the sanitizers loaded, so it imports little.

An argument is an array (its address is passed), an int (as 64 bits), a list of arrays (an array of
addresses), ("int", n) for a C int, or None. The functions' results are checked to be 0 where the
name does not end in "!" (no result) or "?" (a size, which then comes back before the arguments).
"""

from __future__ import annotations

import ctypes
import pickle
import sys
from typing import Any

import numpy as np


def argument(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, list):
        return (ctypes.c_void_p * max(1, len(value)))(*[one.ctypes.data for one in value])
    if isinstance(value, tuple):
        return ctypes.c_int(value[1])
    return ctypes.c_longlong(value)


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    results = []
    for name, arguments in pickle.load(sys.stdin.buffer):
        # An own allocation of the exact size each: what reads or writes beyond it is found.
        own = [np.array(one) if isinstance(one, np.ndarray) else one for one in arguments]
        own = [[np.array(e) for e in one] if isinstance(one, list) else one for one in own]
        function = getattr(library, name.rstrip("?!"))
        kinds = {"!": None, "?": ctypes.c_longlong}
        function.restype = kinds.get(name[-1], ctypes.c_int)
        code = function(*[argument(one) for one in own])
        if name.endswith("?"):
            own = [code, *own]
        elif code not in (None, 0):
            sys.exit(f"{name}: {code}")
        results.append(own)
    pickle.dump(results, sys.stdout.buffer)


if __name__ == "__main__":
    main()
