"""Multiplies NumPy arrays through cblas_sgemm and cblas_dgemm of a library, whose path is the
argument, and compares with NumPy's own products: plain arrays, transposed ones, parts of larger
ones, every other row."""

import ctypes
import sys

import numpy as np

ROW_MAJOR, COL_MAJOR, NO_TRANS, TRANS = 101, 102, 111, 112


def leading(array, by_rows):
    """Whether the array is stored the other way round, and its leading dimension."""
    steps = [stride // array.itemsize for stride in array.strides]
    rows, cols = steps if by_rows else steps[::-1]
    if cols == 1:
        return False, rows
    if rows == 1:
        return True, cols
    raise ValueError(f"neither rows nor columns are contiguous: {array.strides}")


def gemm(library, alpha, a, b, beta, c):
    """c = alpha a @ b + beta c"""
    routines = {"f": ("cblas_sgemm", ctypes.c_float), "d": ("cblas_dgemm", ctypes.c_double)}
    name, real = routines[c.dtype.char]
    integer, matrix = ctypes.c_int, [ctypes.c_void_p, ctypes.c_int]
    routine = getattr(library, name)
    routine.restype = None
    routine.argtypes = [integer] * 6 + [real, *matrix, *matrix, real, *matrix]
    by_rows = c.strides[1] == c.itemsize
    (trans_a, lda), (trans_b, ldb) = leading(a, by_rows), leading(b, by_rows)
    (_, ldc), (m, n), k = leading(c, by_rows), c.shape, a.shape[1]
    settings = [TRANS if trans else NO_TRANS for trans in (trans_a, trans_b)]
    layout = ROW_MAJOR if by_rows else COL_MAJOR
    a, b, c = (array.ctypes.data for array in (a, b, c))
    routine(layout, *settings, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)


def arrays(random, rows, cols, dtype):
    """Arrays of the same shape, stored in many ways, within a larger one."""
    for shape, view in [
        ((rows, cols), lambda x: x),
        ((cols, rows), lambda x: x.T),
        ((rows + 3, cols + 5), lambda x: x[2:2 + rows, 1:1 + cols]),
        ((2 * rows, cols), lambda x: x[::2]),
        ((2 * cols, rows + 1), lambda x: x[1::2, :rows].T),
    ]:
        whole = random.integers(-8, 9, shape).astype(dtype)
        yield whole, view(whole)


def main():
    library = ctypes.CDLL(sys.argv[1])
    random = np.random.default_rng(5)
    count = 0
    for dtype in (np.float32, np.float64):
        for m, n, k in [(2, 3, 4), (7, 2, 130), (65, 33, 17), (300, 200, 100)]:
            for _, a in arrays(random, m, k, dtype):
                for _, b in arrays(random, k, n, dtype):
                    for whole, c in arrays(random, m, n, dtype):
                        # Whole numbers: every sum is exact. What lies around C stays as it is.
                        start, before, expected = c.copy(), whole.copy(), 2 * (a @ b) - c
                        gemm(library, 2, a, b, -1, c)
                        about = dtype.__name__, m, n, k, a.strides, b.strides, c.strides
                        assert np.array_equal(c, expected), about
                        c[:] = start
                        assert np.array_equal(whole, before), about
                        count += 1
            a = random.standard_normal((m, k)).astype(dtype)
            b = random.standard_normal((n, k)).astype(dtype).T
            c = np.full((m, n), np.nan, dtype)
            gemm(library, 1, a, b, 0, c)
            np.testing.assert_allclose(c, a @ b, rtol=0, atol=k * 8 * np.finfo(dtype).eps)
    print(f"{count} products are NumPy's")


main()
