"""The fields of a replay buffer: what they are called, of which type and shape, and how values become arrays of it."""

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

LARGEST_FIELDS, LARGEST_DIMENSIONS = 64, 8  # csrc/pyglue.c has room for so many

_KINDS = "biufc"  # numpy's letters: bool, int, unsigned, float, complex
_WORDS = {"b": "bool", "i": "whole numbers", "u": "whole numbers", "f": "numbers", "c": "complex numbers"}


class Field(NamedTuple):
    """
    One field, and where it stands in a row. Bytes.

    Attributes:
        name: As it is given to add(): "obs", or "obs/position" of a nested one.
        dtype: numpy's.
        shape: Of one value.
        offset: In the row; of one that follows, in the row after it.
        size: What one value takes.
        follows: The field whose next value this one is, or None.
    """

    name: str
    dtype: Any
    shape: tuple[int, ...]
    offset: int
    size: int
    follows: str | None = None

    @property
    def said(self) -> str:
        """Its type and shape as an error says them: "float32 (17,)"."""
        return f"{self.dtype} {self.shape}" if self.shape else f"one {self.dtype}"


class Layout(NamedTuple):
    """
    A row, field by field. Bytes.

    Attributes:
        fields: In the order in which they were given; those that follow others come last.
        next_of: {"next_obs": "obs"}.
        span: The row's beginning that stands for what came before it, too; 0 without next_of.
        stride: From one row to the next.
        needed: What a row would take with each field in it and nothing else.
    """

    fields: tuple[Field, ...]
    next_of: dict[str, str]
    span: int
    stride: int
    needed: int


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split("/")):
            raise ValueError(
                f'a field cannot be called {name!r}: give a name as Python has them, "obs" or "obs/position"'
            )
        if isinstance(value, Mapping):
            if not value:
                raise ValueError(f"field {prefix + name!r} is empty: give it fields, or a shape and a dtype")
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def _parse(name: str, spec: Any) -> tuple[Any, tuple[int, ...]]:
    import numpy as np

    is_pair = isinstance(spec, tuple | list) and len(spec) == 2 and not isinstance(spec[0], tuple | str)
    is_pair = is_pair or (isinstance(spec, tuple | list) and len(spec) == 2 and isinstance(spec[0], tuple))
    shape, kind = spec if is_pair else ((), spec)
    try:
        dtype = np.dtype(kind)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'field {name!r}: {spec!r} is no dtype; write "float32", or ((17,), "float32") with a shape ({error})'
        ) from None
    sizes: tuple[Any, ...] = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if dtype.kind not in _KINDS or dtype.subdtype or dtype.names:
        raise ValueError(f"field {name!r}: {dtype} cannot be stored; numbers and bool can, as float32, uint8 or bool")
    if len(sizes) > LARGEST_DIMENSIONS:
        raise ValueError(f"field {name!r}: {len(sizes)} dimensions are more than {LARGEST_DIMENSIONS}")
    for size in sizes:
        if isinstance(size, bool) or not hasattr(size, "__index__") or size < 1:
            raise ValueError(f"field {name!r}: a shape is of whole numbers above 0, got {shape!r}")
    # The one of its kind: whether an array is of it, add() in C sees by its address.
    return np.dtype(dtype.type), tuple(int(size) for size in sizes)


def _pairs(next_of: Mapping[str, str] | str | None, specs: Mapping[str, Any]) -> dict[str, str]:
    """{"next_obs": "obs"}, flat: of a nested field, each of its own."""
    given = {f"next_{next_of}": next_of} if isinstance(next_of, str) else dict(next_of or {})
    flat: dict[str, str] = {}
    for name, source in given.items():
        below = [each for each in specs if each == source or each.startswith(f"{source}/")]
        if not below:
            raise ValueError(f"next_of: there is no field {source!r}; there are {', '.join(specs)}")
        flat |= {name + each.removeprefix(source): each for each in below}
    if len(set(flat.values())) < len(flat):
        raise ValueError(f"next_of: two fields cannot be the next of one, got {given!r}")
    return flat


def layout(fields: Mapping[str, Any], next_of: Mapping[str, str] | str | None = None) -> Layout:
    """
    A row of these *fields*: {"obs": ((17,), "float32"), "reward": "float32"}, where a mapping nests.

    Raises:
        ValueError: No fields, or too many; a name, shape or dtype that cannot be.
    """
    if not isinstance(fields, Mapping) or not fields:
        raise ValueError(f'fields: need at least one, as {{"obs": ((17,), "float32")}}, got {fields!r}')
    specs = {name: _parse(name, spec) for name, spec in _flat(fields)}
    pairs = _pairs(next_of, specs)
    list(_flat(dict.fromkeys(pairs)))  # their names, too
    for name, source in pairs.items():
        if specs.pop(name, specs[source]) != specs[source]:
            raise ValueError(
                f"next_of: {name!r} must be of the dtype and shape of {source!r}, or be left out of fields"
            )
    if len(specs) + len(pairs) > LARGEST_FIELDS:
        raise ValueError(f"{len(specs) + len(pairs)} fields are more than {LARGEST_FIELDS}")
    shared = [name for name in specs if name in pairs.values()]
    if len(shared) < len(pairs):
        raise ValueError(f"next_of: what follows cannot be followed, got {next_of!r}")
    sizes = {name: dtype.itemsize * prod(shape) for name, (dtype, shape) in specs.items()}
    offsets, at = {}, 0
    for name in [*shared, *(name for name in specs if name not in shared)]:
        offsets[name] = at
        at += sizes[name]
    found = [Field(name, *spec, offsets[name], sizes[name]) for name, spec in specs.items()]
    found += [Field(name, *specs[its], offsets[its], sizes[its], its) for name, its in pairs.items()]
    span = sum(sizes[name] for name in shared)
    return Layout(tuple(found), pairs, span, at + (4 if pairs else 0), at + span)


def prod(shape: Sequence[int]) -> int:
    size = 1
    for each in shape:
        size *= each
    return size


# ------------------------------------------------------------------------ values ---


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a nested field under names of their own: {"obs": {"position": 1}} is {"obs/position": 1}."""
    if not any(isinstance(value, Mapping) for value in values.values()):
        return dict(values)
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{below}": each for below, each in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def check_names(fields: Sequence[Field], values: Mapping[str, Any], what: str) -> None:
    """Raises a ValueError that names what is missing, and what is unknown."""
    missing = [field.name for field in fields if field.name not in values]
    if missing:
        raise ValueError(f"{what}: missing {', '.join(missing)}; need {', '.join(field.name for field in fields)}")
    unknown = [repr(name) for name in values if name not in {field.name for field in fields}]
    if unknown:
        raise ValueError(
            f"{what}: there is no field {', '.join(unknown)}; there are {', '.join(field.name for field in fields)}"
        )


def _plain(field: Field, value: Any) -> Any:
    """A tensor of torch's as an array of the same numbers; anything else as it is."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return value
    if isinstance(value, list | tuple) and value and isinstance(value[0], torch.Tensor):
        return [_plain(field, each) for each in value]
    if not isinstance(value, torch.Tensor):
        return value
    if value.requires_grad:
        warnings.warn(
            f"field {field.name!r} was given a tensor that requires grad: its numbers are stored, without its graph; "
            "give it detached, tensor.detach()",
            RuntimeWarning,
            stacklevel=_outside(),
        )
    value = value.detach()
    if value.dtype == torch.bfloat16:  # which numpy has not
        value = value.float()
    return value.cpu().resolve_conj().resolve_neg().numpy()


def _outside() -> int:
    """How far up the stack the first frame is that is not of this package's buffer: the caller's line."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("memwatch.replay"):
        depth, frame = depth + 1, frame.f_back
    return depth


def convert(field: Field, value: Any, rows: int | None = None) -> Any:
    """
    *value* as a contiguous array of the field's own dtype: one value, or *rows* of them (-1: however many).

    Floats become floats of any width (rounded); whole numbers others, where each one fits, or floats, where each one is
    exact; bool only what is 0 or 1.

    Raises:
        TypeError: It is of a kind that does not become the field's.
        ValueError: Its shape is another one, or a number in it does not fit.
    """
    import numpy as np

    try:
        array = np.asarray(_plain(field, value))
    except MemoryError:
        raise
    except Exception as error:
        raise TypeError(f"field {field.name!r}: need {field.said}, got {type(value).__name__}: {error}") from error
    if array.dtype.kind not in _KINDS:
        raise TypeError(f"field {field.name!r}: need {field.said}, got {type(value).__name__} of dtype {array.dtype}")
    _check_shape(field, array.shape, rows)
    if array.dtype == field.dtype:
        return np.ascontiguousarray(array, field.dtype).reshape(array.shape)
    return _cast(field, array)


def _check_shape(field: Field, shape: tuple[int, ...], rows: int | None) -> None:
    if rows is None:
        if shape != field.shape:
            raise ValueError(f"field {field.name!r}: need shape {field.shape}, got {shape}")
    elif not shape or shape[1:] != field.shape or rows not in (-1, shape[0]):
        many = "n" if rows == -1 else str(rows)
        wanted = ", ".join([many, *map(str, field.shape)])
        raise ValueError(f"field {field.name!r}: need shape ({wanted}{'' if field.shape else ','}), got {shape}")


def _cast(field: Field, array: Any) -> Any:
    import numpy as np

    to, kind = field.dtype.kind, array.dtype.kind
    if (kind == "c" and to != "c") or (kind == "f" and to in "iu"):
        raise TypeError(f"field {field.name!r}: need {field.said}, which {array.dtype} does not become without loss")
    with np.errstate(all="ignore"):
        cast = np.ascontiguousarray(array.astype(field.dtype)).reshape(array.shape)
    if not _fits(array, cast):
        raise ValueError(f"field {field.name!r}: not each of {_some(array)} fits {field.dtype} ({_WORDS[to]})")
    return cast


def _fits(array: Any, cast: Any) -> bool:
    """Whether the numbers are the same; of floats as floats, whether none became infinite."""
    import numpy as np

    to, kind = cast.dtype.kind, array.dtype.kind
    if kind == "b" or not array.size:
        return True
    if to == "b":
        return bool(((array == 0) | (array == 1)).all())
    if kind in "fc":
        return bool((np.isfinite(cast) == np.isfinite(array)).all())
    if to in "iu":
        least, most = np.iinfo(cast.dtype).min, np.iinfo(cast.dtype).max
    else:
        most = 1 << (np.finfo(cast.dtype).nmant + 1)  # up to there each one is exact
        least = -most
    return bool(least <= int(array.min()) and int(array.max()) <= most)


def _some(array: Any) -> str:
    """Its first numbers, for an error."""
    first = ", ".join(str(each) for each in array.reshape(-1)[:4].tolist())
    return f"[{first}{', ...' if array.size > 4 else ''}]"


# --------------------------------------------------------------------------- out ---


def check_out(field: Field, n: int, out: Mapping[str, Any]) -> Any:
    """The array of *out* for this field."""
    import numpy as np

    array = out.get(field.name)
    shape = (n, *field.shape)
    if type(array) is not np.ndarray or array.dtype != field.dtype or array.shape != shape:
        got = (
            "none"
            if array is None
            else f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
        )
        raise ValueError(f"out: field {field.name!r} needs an array of {field.dtype} {shape}, got {got}")
    if not (array.flags.c_contiguous and array.flags.writeable):
        raise ValueError(f"out: field {field.name!r} needs an array that is contiguous and may be written to")
    return array


def tensors(names: Iterable[str], arrays: Iterable[Any], device: Any) -> dict[str, Any]:
    """Tensors that share the arrays' memory, or copies elsewhere."""
    from_numpy = import_module("torch").from_numpy  # which type checkers need not have

    here = dict(zip(names, map(from_numpy, arrays), strict=True))
    return here if device is None else {name: tensor.to(device) for name, tensor in here.items()}
