"""What a GPU runs: its kernels are their specifications anywhere; and CuPy, where it is installed, takes what we write."""
import ast
import copy
import ctypes
import inspect
import re
import types
from pathlib import Path

import numpy as np
import pytest

from minimoe import backend, kernels, model, ops, optim, params
from minimoe.more import precision, products

from . import strict
from .gradcheck import as_tuple, check_dtype, gradients
from .helpers import assert_close, assert_equal, batch, config, device, host, noise, normal, parameters, value, value_and_gradients

IDS = np.array([[3, 0, 3, 5], [5, -100, 1, 0]])                               # -100: no id, as a target that does not count may be
OPS = {                                                                       # name, arguments
    "softmax": ("softmax", lambda: (3 * normal(3, 4, 6),)),
    "columns first": ("softmax", lambda: (3 * normal(3, 6, 4).mT,)),
    "masked": ("softmax", lambda: (np.where(np.tri(6, dtype=bool), normal(3, 6, 6), -np.inf),)),
    "gelu": ("gelu", lambda: (3 * normal(4, 5),)),
    "rms_norm": ("rms_norm", lambda: (1 + normal(2, 3, 5), normal(5), 0.1)),
    "token_losses": ("token_losses", lambda: (3 * normal(2, 4, 6), IDS)),
}
PACKAGE = Path(__file__).resolve().parent.parent / "minimoe"


@pytest.mark.parametrize("name, args", OPS.values(), ids=OPS)
def test_an_op_of_kernels_is_its_specification(name, args):
    """Values, gradients, and the contract of an op; float32 stays float32."""
    op, args = getattr(kernels, name), args()
    cotangents, grads = gradients(op, args)
    y, expected = value_and_gradients(inspect.unwrap(getattr(ops, name)), args, tuple(cotangents))
    assert_close(value(op, *args), y)
    for ours, theirs in zip(grads, as_tuple(expected), strict=True):
        assert_close(ours, theirs)
    check_dtype(op, *args)


def test_row_dot_is_its_specification():
    a, b = device((normal(2, 3, 5), normal(2, 3, 5, seed=1)))
    assert_close(kernels.row_dot(a, b), host(inspect.unwrap(ops.row_dot)(a, b)))
    assert_close(kernels.row_dot(a.mT, b.mT), host(inspect.unwrap(ops.row_dot)(a.mT, b.mT)))


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-14), ("float32", 1e-6)])
@pytest.mark.parametrize("decay", [0.0, 0.1, np.array([0.0, 0.1] * 4)], ids=["none", "all", "some"])
def test_adam_of_kernels_is_its_specification(decay, dtype, tolerance):
    """Step after step; a gradient that is not finite writes nothing; t and ok on the device or on the host."""
    arrays = [normal(8, seed=s).astype(dtype) ** p for s, p in ((0, 1), (1, 1), (2, 2))]
    decay = decay.astype(dtype) if isinstance(decay, np.ndarray) else decay
    ours, theirs = device(tuple(arrays)), device(tuple(arrays))
    for t, ok in (1, True), (2, True), (2, False), (3, True):
        grad = normal(8, seed=t + 9).astype(dtype)
        grad[::3] = grad[::3] if ok else np.nan
        plain, on_device = inspect.unwrap(optim.adam_step_), device((np.array(t), np.array(ok)))
        for step, (theta, m, v), (t, ok) in (kernels.adam_step_, ours, on_device), (plain, theirs, (t, ok)):
            step(theta, device(grad), m, v, t, 0.1, 0.9, 0.99, 1e-3, device(decay), ok)
        for a, b in zip(ours, theirs):
            assert_close(a, host(b), tolerance)
            assert a.dtype == dtype


def test_rounding_by_a_kernel_is_its_specification():
    bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32)
    bits[:7] = [0, 0x8000, 0x18000, 0x7F7FFFFF, 0x7F800000, 0x7F800001, 0xFFFFFFFF]
    x = device(bits.view(np.float32))
    with np.errstate(invalid="ignore"):
        ours, theirs = (host(op(x)[0]).view(np.uint32) for op in (kernels.grid, inspect.unwrap(precision.grid)))
    assert_equal(ours, theirs)


WRONG = [
    ("softmax", "_softmax_gradient", lambda p, dp, dot: p * dp),
    ("softmax", "_total", lambda x, top: backend.xp.exp(x - top).sum(-1) + 1),
    ("gelu", "_gelu_gradient", lambda x, dy: dy * (x > 0)),
    ("rms_norm", "_inverse_root", lambda squares, D, eps: (squares + eps) ** -0.5),
    ("rms_norm", "_dn_n", lambda dy, scale, x, r: 0 * (dy * x).sum(-1)),
    ("token_losses", "_picked", lambda logits, top, target, ids: (logits * (target == ids)).sum(-1)),
    ("token_losses", "_losses_gradient", lambda logits, top, total, *_: backend.xp.exp(logits - top) / total),
]


@pytest.mark.parametrize("op, name, wrong", WRONG, ids=[name for _, name, _ in WRONG])
def test_wrong_kernels_are_noticed(op, name, wrong, monkeypatch):
    monkeypatch.setattr(kernels, name, wrong)
    with pytest.raises(AssertionError):
        test_an_op_of_kernels_is_its_specification(*OPS[op])


# 16-bit products, on an array module with a cuBLAS of one function

class Pointed(np.ndarray):
    """NumPy's array with CuPy's way to its memory."""
    data = property(lambda a: types.SimpleNamespace(ptr=a.ctypes.data))


def gemm(handle, op_a, op_b, m, n, k, alpha, A, type_a, lda, step_a, B, type_b, ldb, step_b, beta, C, type_c, ldc, step_c,
         count, sums, algo):
    """cublasGemmStridedBatchedEx as its manual has it: C = alpha A B + beta C, columns first, stack after stack."""
    assert (op_a, op_b, type_a, type_b, type_c, sums) == ("N", "N", "bf16", "bf16", "f32", "32F")
    alpha, beta = (ctypes.c_float.from_address(number).value for number in (alpha, beta))

    def matrix(pointer, kind, rows, columns, leading):
        numbers = np.ctypeslib.as_array((kind * (leading * (columns - 1) + rows)).from_address(pointer))
        return np.lib.stride_tricks.as_strided(numbers, (rows, columns), (numbers.itemsize, leading * numbers.itemsize))

    def wide(bits):
        return (bits.astype(np.uint32) << 16).view(np.float32)

    for i in range(count):
        a = wide(matrix(A + 2 * i * step_a, ctypes.c_uint16, m, k, lda))
        b = wide(matrix(B + 2 * i * step_b, ctypes.c_uint16, k, n, ldb))
        c = matrix(C + 4 * i * step_c, ctypes.c_float, m, n, ldc)
        c[...] = alpha * (a @ b) + (beta * c if beta else 0)                  # with beta 0 cuBLAS does not read C


def with_units(product=gemm):
    """NumPy with a GPU's 16-bit units, as far as kernels.bfloat16_matmul asks for them."""
    module = types.ModuleType("units")
    vars(module).update({name: getattr(np, name) for name in dir(np) if not name.startswith("__")})
    for name in "asarray", "ascontiguousarray", "arange", "empty", "zeros", "ones":
        setattr(module, name, lambda *args, f=getattr(np, name), **named: f(*args, **named).view(Pointed))
    cublas = types.SimpleNamespace(CUBLAS_OP_N="N", CUBLAS_COMPUTE_32F="32F", CUBLAS_GEMM_DEFAULT=-1, gemmStridedBatchedEx=product)
    module.cuda = types.SimpleNamespace(cublas=cublas, runtime=types.SimpleNamespace(CUDA_R_16BF="bf16", CUDA_R_32F="f32"),
                                        device=types.SimpleNamespace(get_cublas_handle=lambda: 7))
    return module


@pytest.fixture
def use():
    before = backend.xp.module
    yield backend.use
    backend.use(before)


def whole(*shape):
    """Numbers whose products and sums are exact in float32."""
    return np.random.default_rng(shape).integers(-60, 61, shape).astype(np.float32).view(Pointed)


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3)])
def test_a_16_bit_product_is_the_product(batch, use):
    """Of matrices and of stacks, of which each size differs; of transposed ones, too."""
    use(with_units())
    a, b, c, d = whole(*batch, 5, 40), whole(*batch, 40, 7), whole(*batch, 40, 5), whole(*batch, 7, 40)
    for x, y in (a, b), (c.mT, b), (a, d.mT), (c.mT, d.mT):
        assert_equal(kernels.bfloat16_matmul(x, y), x @ y)


def rounding(*args):
    gemm(*args)
    m, n, C, ldc = args[3], args[4], args[16], args[18]
    y = np.ctypeslib.as_array((ctypes.c_float * (ldc * n)).from_address(C))
    y[...] = host(precision.bfloat16(y.copy()))


def turned(*args):
    gemm(*args[:7], *args[11:15], *args[7:11], *args[15:])


def refusing(*args):
    raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")


@pytest.mark.parametrize("product, found", [(gemm, True), (rounding, False), (turned, False), (refusing, False)])
def test_16_bit_units_are_used_where_they_give_the_same(product, found, use):
    calls = []

    def counted(*args):
        calls.append(args)
        product(*args)

    module = with_units(counted)
    use(module)
    a, b = whole(2, 5, 40), whole(2, 40, 7)
    for _ in range(2):
        assert_equal(products.matmul(a, b), np.asarray(a) @ np.asarray(b))
        assert products.matmul(a.astype(float), b.astype(float)).dtype == np.float64
    assert products.has_16_bit_units(module) is found
    assert len(calls) == (3 if found else 1), "the trial, and then each product of float32"


def test_without_a_gpu_there_are_no_units(use):
    for module in np, strict:
        use(module)
        assert not products.has_16_bit_units(module)


def test_a_model_has_its_products_from_the_units(use):
    """Forward and backward, and the losses are those of the emulation."""
    calls, found = [], []
    for product in (lambda *args: (calls.append(args), gemm(*args)), refusing):
        use(with_units(product))
        cfg = config("switch")
        task, drawn = precision.task(cfg, "selective"), noise(cfg, 14, dtype="float32")
        (ce, *_), backward = task.loss(parameters(cfg, dtype="float32"), batch(cfg), drawn)
        backward(*map(np.float32, (1, 1, 1)))
        found.append(float(ce))
    assert len(calls) > 60 and abs(found[0] - found[1]) < 1e-2 * found[1]


# CuPy itself

@pytest.fixture
def cupy():
    module, before = pytest.importorskip("cupy"), backend.xp.module
    yield module
    backend.use(before)


def test_cupy_has_what_the_stand_in_has(cupy):
    of_arrays = [*strict.METHODS, *strict.PROPERTIES, "get"]
    assert not [name for name in sorted(strict.FUNCTIONS | strict.VALUES) if not hasattr(cupy, name)]
    assert not [name for name in of_arrays if not hasattr(cupy.ndarray, name)]


def test_the_layout_cuts_views_of_cupy_s_arrays_too(cupy):
    """A copy would need a kernel, or have memory of its own."""
    shapes = model.shapes(config("glam"))
    flat = to_cupy(cupy, np.zeros(params.size(shapes), "float32"))
    for (_, w), (_, view) in zip(params.leaves(shapes), params.leaves(params.views(flat, shapes)), strict=True):
        assert view.shape == w.shape and 0 <= view.data.ptr - flat.data.ptr < flat.nbytes


def uses():
    """(where, name, keywords) of every xp.name in the package, and of every call of a method that device arrays have."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        if "xp." not in text or "import torch" in text:                       # torch's methods have the same names
            continue
        called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                of, call = getattr(node.value, "id", ""), called.get(id(node))
                if of == "xp" or call and node.attr in strict.METHODS and of != "np":
                    yield f"{path.name}:{node.lineno}", node.attr, of == "xp", {k.arg for k in call.keywords} if call else set()


def test_cupy_has_every_name_and_takes_every_keyword(cupy):
    """As far as names and signatures tell: those of compiled methods stand in the first line of what they say of themselves."""
    found = list(uses())
    assert len(found) > 200
    for where, name, of_xp, keywords in found:
        if of_xp and name in ("module", "on_cpu", "fuse"):                    # backend's own
            continue
        f = getattr(cupy if of_xp else cupy.ndarray, name)
        if isinstance(f, cupy.ufunc):
            taken = {"out", "dtype", "casting"}
        elif of_xp:
            taken = set(inspect.signature(f).parameters) if keywords else set()
        else:
            taken = set(re.findall(r"(\w+)[=,)]", f.__doc__.splitlines()[0]))
        assert keywords <= taken, f"{where}: {name} takes no {keywords - taken}"


def recorded():
    """(lines, arguments, result, arguments afterwards) of each kernel in a forward and backward pass of every op in float32."""
    found, before = [], backend.xp.module

    def fuse(lines):
        def whole(*args):
            first = copy.deepcopy(args)
            found.append((lines, first, lines(*args), args))
            return found[-1][2]
        return whole

    recorder = types.ModuleType("recorder")
    vars(recorder).update({name: getattr(np, name) for name in dir(np) if not name.startswith("__")}, fuse=fuse)
    backend.use(recorder)
    try:
        for name, args in OPS.values():
            low = [a.astype("float32") if getattr(a, "dtype", None) == float else a for a in args()]
            y, backward = getattr(kernels, name)(*low)
            backward(y)
        for decay in 0.1, np.float32(normal(8)):
            theta, grad, m, v = np.float32(normal(4, 8)) ** 2
            kernels.adam_step_(theta, grad, m, v, np.array(3), 0.1, 0.9, 0.99, 1e-8, decay, np.array(True))
        kernels.grid(np.float32(normal(8)))
        kernels._upper_half(np.float32(normal(8)).view(np.uint32))
    finally:
        backend.use(before)
    return found


def to_cupy(cupy, a):
    """An array for CuPy. Without a GPU its memory is the host's: tracing does not read it."""
    if not isinstance(a, (np.ndarray, np.generic)) or cupy.is_available():
        return cupy.asarray(a) if hasattr(a, "dtype") else a
    a = np.asarray(a)
    memory = cupy.cuda.UnownedMemory(a.ctypes.data, a.nbytes, a, 0)
    return cupy.ndarray(a.shape, a.dtype, cupy.cuda.MemoryPointer(memory, 0), a.strides)


def traced(cupy, lines, args):
    """CuPy's kernel of the lines, and what it gives where there is a GPU."""
    fused, y = cupy.fuse(lines), None
    try:
        y = fused(*args)
    except cupy.cuda.runtime.CUDARuntimeError:
        assert not cupy.is_available()
    assert fused.new_fusion is None, f"{lines.__name__} is more than one elementwise kernel with one sum at its end"
    ((kernel, _),) = fused._memo.values()
    return kernel, y


def sums_in(kernel):
    """The types of what a kernel computes on the way."""
    return set(re.findall(r"^([a-z][a-z0-9 ]*) v\d+;$", kernel.preamble + getattr(kernel, "operation", ""), re.MULTILINE))


def test_cupy_traces_every_kernel_and_promotes_nothing(cupy):
    found = recorded()
    made = {name for name, f in vars(kernels).items() if hasattr(f, "__wrapped__")}
    assert {lines.__name__ for lines, *_ in found} == made, "every kernel is recorded"
    backend.use(cupy)
    for lines, args, expected, after in found:
        on_device = [to_cupy(cupy, a) for a in args]
        kernel, y = traced(cupy, lines, on_device)
        assert [p.dtype for p in kernel.out_params] == ([] if expected is None else [expected.dtype]), lines.__name__
        assert not sums_in(kernel) & {"double", "float16"}, f"{lines.__name__} computes in {sums_in(kernel)}"
        if cupy.is_available():
            for a, b in zip((y, *on_device), (expected, *after)):
                if hasattr(a, "dtype"):
                    assert np.allclose(host(a), b, rtol=1e-5, atol=1e-6), lines.__name__


def test_what_cupy_cannot_trace_is_noticed(cupy):
    def two_sums(x):
        return backend.xp.sum(x / backend.xp.sum(x, axis=-1), axis=-1)

    def method(x):
        return (x * x).sum(-1)

    backend.use(cupy)
    for lines in two_sums, method:
        with pytest.raises(AssertionError, match="one sum at its end"):
            traced(cupy, lines, [to_cupy(cupy, np.ones((3, 3), "float32"))])

    def two_numbers(x, beta):
        return x * (1 - beta)

    kernel, _ = traced(cupy, two_numbers, [to_cupy(cupy, np.ones(3, "float32")), 0.5])
    assert "float16" in sums_in(kernel), "as backend.kernel warns"


def test_the_compiler_takes_every_kernel(cupy):
    """What CuPy made of the lines, through NVIDIA's compiler, which needs no GPU."""
    found, nvrtc = recorded(), cupy.cuda.nvrtc
    try:
        nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"no NVRTC: {type(error).__name__}")
    backend.use(cupy)
    include = f"-I{Path(cupy.__file__).parent / '_core' / 'include'}"
    for lines, args, *_ in found:
        kernel, _ = traced(cupy, lines, [to_cupy(cupy, a) for a in args])
        source = kernel.preamble.replace('#include "cupy/float16.cuh"', "")   # it wants CUDA's headers, for a type we do not use
        if hasattr(kernel, "operation"):
            params = ", ".join(f"{p.ctype} {p.name}" for p in (*kernel.in_params, *kernel.out_params))
            source += f'extern "C" __global__ void whole({params}) {{ {kernel.operation}; }}'
        program = nvrtc.createProgram(source, f"{lines.__name__}.cu", (), ())
        try:
            nvrtc.compileProgram(program, ("--std=c++17", "--gpu-architecture=compute_80", "-default-device", include))
        except nvrtc.NVRTCError:
            pytest.fail(f"{lines.__name__}: {nvrtc.getProgramLog(program)}")
