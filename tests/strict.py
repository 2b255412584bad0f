"""A stand-in for CuPy on a machine without a GPU: NumPy's arithmetic, CuPy's rules, and every broken rule is an error.

    backend.use(strict)

Always an error: a host array that meets a device array, one of 0 dimensions, too, or a list; `float`, `int`, `bool`,
`.item()`, `.tolist()` and `np.asarray` on a device array (`.get()` is the one way to the host); integer indices that are
negative or out of range (CuPy wraps them); repeated targets of x[i] = v (CuPy writes any of them), but for the last row, the
bin, which becomes nan; a NumPy float64 scalar that promotes float32; a function that CuPy lacks, a keyword or a kind of
sorting; a condition of `where` and a first argument of `searchsorted` that are no arrays. tests/test_cupy.py compares the names
with CuPy's, where that is installed.

`with no_host_reads():` a training step. Then `.get()` is an error too, and so is whatever makes CuPy wait for a number:
boolean-mask indexing, nonzero, unique, bincount.
`with float32_only():` a float32 array that meets a float64 array is an error: the result would be float64.
"""
import contextlib
import functools
import operator

import numpy as np

BINARY = "add sub mul truediv floordiv mod pow matmul and_ or_ xor rshift lshift lt le gt ge eq ne".split()
UNARY = "neg pos abs invert".split()
METHODS = """
    all any argmax argmin argsort astype clip conj copy cumprod cumsum diagonal dot fill flatten max mean min
    nonzero prod ravel repeat reshape round searchsorted sort squeeze std sum swapaxes take trace transpose var
    view
    """.split()
PROPERTIES = "T mT dtype flags imag itemsize nbytes ndim real shape size strides".split()
WAITS = "argwhere bincount compress extract flatnonzero nonzero unique".split()      # CuPy reads a size back for these
FUNCTIONS = set(WAITS) | set("""
    abs absolute add all allclose amax amin any arange arccos arcsin arctan arctan2 argmax argmin argpartition
    argsort array_equal array_split atleast_1d atleast_2d bitwise_and bitwise_or bitwise_xor broadcast_arrays
    broadcast_to cbrt ceil clip column_stack concatenate copy copysign copyto cos cosh count_nonzero cross cumprod
    cumsum diag diagonal diff digitize divide dot dstack einsum empty empty_like equal exp exp2 expand_dims expm1
    eye finfo flip float_power floor floor_divide fmax fmin fmod full full_like greater greater_equal histogram
    hstack hypot identity iinfo inner interp invert isclose isfinite isinf isnan issubdtype kron left_shift less
    less_equal linspace log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor logspace
    matmul max maximum mean median meshgrid min minimum mod moveaxis multiply nan_to_num negative nextafter
    not_equal ones ones_like outer pad partition percentile permute_dims power prod promote_types put quantile
    ravel reciprocal remainder repeat reshape result_type right_shift rint roll round searchsorted sign signbit sin
    sinh sort split sqrt square squeeze stack std subtract sum swapaxes take take_along_axis tan tanh tensordot
    tile trace transpose tri tril triu true_divide trunc var vdot vstack where zeros zeros_like
    """.split())
LACKS = {"where", "initial", "subok", "signature"}        # keywords of NumPy's functions; copyto alone has a where in CuPy
VALUES = set("""bool bool_ dtype e float16 float32 float64 floating inf int8 int16 int32 int64 integer nan newaxis pi
    uint8 uint16 uint32 uint64""".split())

_step = dict(no_reads=False, float32=False)


@contextlib.contextmanager
def _rule(name):
    before, _step[name] = _step[name], True
    try:
        yield
    finally:
        _step[name] = before


def no_host_reads():
    """Inside, nothing may be read back on the host: what a training step promises."""
    return _rule("no_reads")


def float32_only():
    """Inside, no float32 array may become float64 by meeting one."""
    return _rule("float32")


class HostRead(RuntimeError):
    """Something that makes CuPy wait for the GPU, inside a training step."""


class Promoted(TypeError):
    """float32 became float64."""


def _wait(what):
    if _step["no_reads"]:
        raise HostRead(f"{what} reads back on the host inside a training step")


def _leaves(args):
    for a in args:
        if isinstance(a, (list, tuple)):
            yield from _leaves(a)
        else:
            yield a


def _host(a):
    if isinstance(a, (list, tuple)):
        return type(a)(_host(b) for b in a)
    return a._array if isinstance(a, Device) else a


def _device(result):
    if isinstance(result, (list, tuple)):
        return type(result)(_device(r) for r in result)
    return Device(result) if isinstance(result, (np.ndarray, np.generic)) else result


def _call(function, *args, **kwargs):
    """function on the arrays behind the device arrays, with the rules on mixing checked before and after."""
    name = function.__name__
    given = [*_leaves(args), *_leaves(kwargs.values())]
    for a in given:
        if isinstance(a, np.ndarray):
            raise TypeError(f"{name}: a host array {a.shape} meets the device; say xp.asarray")
    _check_arguments(function, name, args, kwargs)
    result = _device(function(*_host(args), **{key: _host(a) for key, a in kwargs.items()}))
    if "dtype" not in kwargs and name != "astype":
        _check_promotion(name, given, [*_leaves([result])])
    return result


def _check_arguments(function, name, args, kwargs):
    """What CuPy's function of this name does not take."""
    lacking = set(kwargs) & LACKS - ({"where"} if name == "copyto" else set())
    if lacking or kwargs.get("kind") not in (None, "stable"):
        raise TypeError(f"{name}: CuPy takes no {', '.join(lacking) or 'such kind'}")
    if isinstance(function, np.ufunc) and any(isinstance(a, (list, tuple)) for a in args):
        raise TypeError(f"{name}: a list meets the device; say xp.asarray")
    if name in ("where", "searchsorted") and not isinstance(args[0], Device):
        raise TypeError(f"{name}: its first argument is no device array; say xp.asarray")


def _check_promotion(name, given, results):
    def have(dtype, arrays):
        return any(getattr(a, "dtype", None) == dtype for a in arrays)

    devices = [a for a in given if isinstance(a, Device)]
    numpy_numbers = [a for a in given if not isinstance(a, Device)]
    if have("float32", devices) and have("float64", results):
        if have("float64", numpy_numbers) or _step["float32"] and have("float64", devices):
            raise Promoted(f"{name}: float32 meets float64 and is promoted")


class Device:
    """An array on the device: it can be computed with, and read with `.get()`."""

    __array_ufunc__ = None          # so that `host_array + device_array` arrives at __radd__ below, and is refused
    __hash__ = None

    def __init__(self, array):
        self._array = np.asarray(array)

    def get(self):
        _wait(".get()")
        return self._array.copy()

    def _no_read(self, *args, **kwargs):
        raise TypeError("this reads a device array on the host: say backend.host(x), outside the training step")

    __array__ = __float__ = __int__ = __bool__ = __index__ = __complex__ = item = tolist = _no_read

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __repr__(self):
        return f"device {self._array!r}"

    def _index(self, index):
        """The index for the array behind, checked; and whether it holds an integer array."""
        parts = index if isinstance(index, tuple) else (index,)
        width = [0 if p is None or p is Ellipsis else p.ndim if getattr(p, "dtype", None) == bool else 1 for p in parts]
        axis, gathers = 0, False
        for part, used in zip(parts, width):
            if isinstance(part, list) or isinstance(part, np.ndarray) and part.ndim:
                raise TypeError("a host array or list as index of a device array; say xp.asarray")
            if isinstance(part, Device) and part.dtype == bool:
                _wait("boolean-mask indexing")
            elif isinstance(part, Device):
                gathers = True
                i, n = part._array, self.shape[axis]
                if i.size and (i.min() < 0 or i.max() >= n):
                    raise IndexError(f"index {i.min()} ... {i.max()} in an axis of {n}: CuPy would wrap around silently")
            axis += self.ndim - sum(width) if part is Ellipsis else used
        return tuple(_host(p) for p in parts), gathers

    def __getitem__(self, index):
        return Device(self._array[self._index(index)[0]])

    def __setitem__(self, index, value):
        raw, gathers = self._index(index)
        if isinstance(value, (np.ndarray, list)) and np.ndim(value):
            raise TypeError("a host array is written into a device array; say xp.asarray")
        self._array[raw] = _host(value)
        if gathers:
            targets, times = np.unique(np.arange(self.size).reshape(self.shape)[raw], return_counts=True)
            repeated = targets[times > 1]
            if (repeated < self.size - self._array[-1].size).any():
                raise IndexError("repeated targets of x[i] = v: on CuPy any of the values may stay")
            bad = np.nan if self.dtype.kind == "f" else True if self.dtype == bool else np.iinfo(self.dtype).min
            self._array.flat[repeated] = bad


def _add_operators():
    def refuse_lists(a, b):
        if isinstance(b, (list, tuple)):
            raise TypeError("a list meets a device array; say xp.asarray")
        return a, b

    def binary(f):
        return lambda a, b: _call(f, *refuse_lists(a, b)), lambda a, b: _call(f, *refuse_lists(a, b)[::-1])

    for name in BINARY:
        f, bare = getattr(operator, name), name.strip("_")
        forward, reflected = binary(f)
        setattr(Device, f"__{bare}__", forward)
        if bare not in ("lt", "le", "gt", "ge", "eq", "ne"):
            setattr(Device, f"__r{bare}__", reflected)
            setattr(Device, f"__i{bare}__", _in_place(getattr(operator, f"i{bare}")))
    for name in UNARY:
        setattr(Device, f"__{name}__", lambda a, f=getattr(operator, name): _call(f, a))
    for name in METHODS:
        setattr(Device, name, _method(name))
    for name in PROPERTIES:
        setattr(Device, name, property(lambda a, name=name: _device(getattr(a._array, name))))


def _in_place(f):
    def update(a, b):
        _call(f, a, b)              # the array behind a is changed in place
        return a
    return update


def _method(name):
    function = getattr(np.ndarray, name)

    @functools.wraps(function)
    def method(self, *args, **kwargs):
        if name in WAITS:
            _wait(name)
        return _call(function, self, *args, **kwargs)
    return method


_add_operators()
ndarray = Device


def asarray(a, dtype=None):
    """To the device: a copy, as it is on a GPU; a device array stays itself."""
    return a if isinstance(a, Device) and dtype in (None, a.dtype) else Device(np.array(_host(a), dtype))


array = asarray


class random:
    """xp.random: generators that give device arrays, with CuPy's dtype argument."""

    class default_rng:
        def __init__(self, seed):
            self._rng = np.random.default_rng(seed)

        def random(self, size=None, dtype="float64"):
            return Device(self._rng.random(size, dtype))

        def standard_normal(self, size=None, dtype="float64"):
            return Device(self._rng.standard_normal(size, dtype))

        def integers(self, low, high=None, size=None, dtype="int64", endpoint=False):
            return Device(self._rng.integers(low, high, size, dtype, endpoint))


def __getattr__(name):
    if name in VALUES or name in ("finfo", "iinfo", "issubdtype", "promote_types"):
        return getattr(np, name)
    if name in FUNCTIONS:
        function = getattr(np, name)

        @functools.wraps(function)
        def call(*args, **kwargs):
            if name in WAITS or name == "where" and len(args) == 1:
                _wait(name)
            return _call(function, *args, **kwargs)
        return call
    raise AttributeError(f"{name} is not on the list of what CuPy has; if it is there, add it to strict.FUNCTIONS")
