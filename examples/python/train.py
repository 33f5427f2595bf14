"""Trains the two-layer network 3072-200-10 on one batch of synthetic images, through ctypes and
numpy, and shows that the loss falls. From the repository's root:

cargo rustc -p tilewise --lib --release --features capi --crate-type cdylib
python3 examples/python/train.py target/release/libtilewise.so
"""
import ctypes as c
import sys

import numpy as np

lib = c.CDLL(sys.argv[1])
lib.tilewise_last_error.restype = c.c_char_p
ABI = 2  # TILEWISE_ABI_VERSION of the header that this file was written for
if lib.tilewise_abi_version() != ABI:
    sys.exit(f"written for ABI {ABI}, the library has ABI {lib.tilewise_abi_version()}")


class Matrix(c.Structure):
    _fields_ = [("data", c.c_void_p), ("rows", c.c_size_t), ("cols", c.c_size_t),
                ("row_stride", c.c_ssize_t), ("col_stride", c.c_ssize_t)]


class Network(c.Structure):
    _fields_ = [("dims", c.POINTER(c.c_size_t)), ("dims_len", c.c_size_t), ("init", c.c_int32),
                ("weight_scale", c.c_double), ("dropout", c.c_double), ("seed", c.c_uint64)]


class Optimizer(c.Structure):
    _fields_ = [("name", c.c_char_p)] + [(name, c.c_double) for name in (
        "momentum", "decay", "beta1", "beta2", "epsilon", "weight_decay")]


class Settings(c.Structure):
    _fields_ = [("batch_size", c.c_size_t), ("learning_rate", c.c_double),
                ("label_smoothing", c.c_double), ("l2", c.c_double), ("clip_norm", c.c_double),
                ("precision", c.c_int32)]


def call(name, *arguments):
    status = getattr(lib, "tilewise_" + name)(*arguments)
    if status:
        sys.exit(f"tilewise_{name} gave {status}: {lib.tilewise_last_error().decode()}")


random = np.random.default_rng(0)
labels = (np.arange(512) % 10).astype(np.uint32)
x = random.random((512, 3072), dtype=np.float32) - np.float32(0.5)
x[np.arange(3072) % 10 == labels[:, None]] += 0.1  # a brighter stripe for each class
batch = Matrix(x.ctypes.data, *x.shape, *(stride // x.itemsize for stride in x.strides))
network = Network((c.c_size_t * 3)(3072, 200, 10), 3)
adam, trainer, loss, losses = Optimizer(), c.c_void_p(), c.c_double(), []
call("optimizer_init", b"adam", c.byref(adam))
call("trainer_create", c.byref(network), c.byref(adam),
     c.byref(Settings(batch_size=512, learning_rate=0.001)), None, c.byref(trainer))
for step in range(20):
    call("trainer_step", trainer, c.byref(batch), labels.ctypes, c.c_size_t(512), c.byref(loss))
    losses.append(loss.value)
    print(f"step {step + 1:2}: loss {loss.value:.4f}")
lib.tilewise_trainer_destroy(trainer)
sys.exit(not losses[-1] < losses[0] / 2)
