"""Model files in bf16, exchanged with PyTorch: the logits agree within the rounding to bf16.

A network that tilewise trains and saves in bf16 is loaded by PyTorch and computed there in f32, in bf16
and under autocast; one that PyTorch saves in bf16 is loaded by tilewise. From the repository's root,
where Python has torch, numpy and safetensors:

cargo rustc -p tilewise --lib --release --features capi --crate-type cdylib
python3 tests/pytorch/bf16_models.py target/release/libtilewise.so
"""
import ctypes as c
import os
import sys
import tempfile

# Libraries of GPUs, whose functions nobody calls here, need not be complete.
sys.setdlopenflags(os.RTLD_LAZY)

import numpy as np
import torch
from safetensors.torch import load_file, save_file

DIMS = (300, 200, 100, 10)
BATCH = 64
BF16 = 1  # TILEWISE_PRECISION_BF16
# Of the largest logit. A rounding to bf16 changes a number by at most 2^-9 of it; PyTorch and tilewise
# round at different places: operands, sums and the outputs of layers.
TOLERANCE = 2.0**-8

lib = c.CDLL(sys.argv[1])
lib.tilewise_last_error.restype = c.c_char_p
ABI = 2  # TILEWISE_ABI_VERSION of the header that this file was written for
if lib.tilewise_abi_version() != ABI:
    sys.exit(f"written for ABI {ABI}, the library has ABI {lib.tilewise_abi_version()}")


class Matrix(c.Structure):
    _fields_ = [("data", c.c_void_p), ("rows", c.c_size_t), ("cols", c.c_size_t),
                ("row_stride", c.c_ssize_t), ("col_stride", c.c_ssize_t)]

    @classmethod
    def of(cls, array):
        return cls(array.ctypes.data, *array.shape, *(s // array.itemsize for s in array.strides))


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


def train_and_save(path, x, labels):
    """Trains in bf16, so that biases are not 0, and saves with weights in bf16."""
    dims = (c.c_size_t * len(DIMS))(*DIMS)
    adam, trainer, loss = Optimizer(), c.c_void_p(), c.c_double()
    call("optimizer_init", b"adam", c.byref(adam))
    settings = Settings(batch_size=BATCH, learning_rate=0.01, precision=BF16)
    network = Network(dims, len(DIMS))
    call("trainer_create", c.byref(network), c.byref(adam), c.byref(settings), None, c.byref(trainer))
    for _ in range(20):
        call("trainer_step", trainer, c.byref(Matrix.of(x)), labels.ctypes, c.c_size_t(BATCH),
             c.byref(loss))
    call("trainer_save_in", trainer, path.encode(), None, BF16)
    lib.tilewise_trainer_destroy(trainer)


def tilewise_logits(path, x):
    """The logits of a file in the precision that the file says, which is bf16."""
    predictor, scratch, precision = c.c_void_p(), c.c_void_p(), c.c_int32()
    call("predictor_load", path.encode(), None, c.byref(predictor))
    call("predictor_precision", predictor, c.byref(precision))
    assert precision.value == BF16, f"{path} is of precision {precision.value}"
    call("scratch_create", predictor, None, c.c_size_t(BATCH), c.byref(scratch))
    logits = np.full((BATCH, DIMS[-1]), np.nan, dtype=np.float32)
    call("predict", predictor, scratch, c.byref(Matrix.of(x)), c.byref(Matrix.of(logits)))
    lib.tilewise_scratch_destroy(scratch)
    lib.tilewise_predictor_destroy(predictor)
    return logits


def module():
    layers = []
    for inputs, outputs in zip(DIMS, DIMS[1:]):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def torch_logits(model, x):
    """The logits of a module in f32, under autocast, and after `.bfloat16()`, which changes it."""
    with torch.no_grad():
        x = torch.from_numpy(x)
        yield "f32", model(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield "autocast", model(x)
        yield "bf16", model.bfloat16()(x.bfloat16())


def difference(logits, expected):
    return np.abs(logits.float().numpy() - expected).max() / np.abs(expected).max()


def compare(what, model, x, expected):
    for name, logits in torch_logits(model, x):
        found = difference(logits, expected)
        print(f"{what}: PyTorch in {name} differs by {100 * found:.2f} % of the largest logit")
        assert found <= TOLERANCE, f"expected at most {100 * TOLERANCE:.2f} %"


random = np.random.default_rng(0)
x = random.standard_normal((BATCH, DIMS[0]), dtype=np.float32)
labels = (np.arange(BATCH) % DIMS[-1]).astype(np.uint32)
torch.manual_seed(0)

with tempfile.TemporaryDirectory() as scratch:
    path = os.path.join(scratch, "tilewise.safetensors")
    train_and_save(path, x, labels)
    tensors = load_file(path)
    for name, tensor in tensors.items():
        expected = torch.bfloat16 if name.endswith("weight") else torch.float32
        assert tensor.dtype == expected, f"{name} is {tensor.dtype}"
    logits = tilewise_logits(path, x)
    model = module()
    model.load_state_dict(tensors)
    # The comparison notices missing biases, so that it says something about them.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.zero_()
        assert difference(model(torch.from_numpy(x)), logits) > 2 * TOLERANCE
    model.load_state_dict(tensors)
    compare("saved by tilewise", model, x, logits)

    path = os.path.join(scratch, "pytorch.safetensors")
    model = module().bfloat16()
    save_file(model.state_dict(), path)
    compare("saved by PyTorch", model.float(), x, tilewise_logits(path, x))
print(f"logits of tilewise and of PyTorch {torch.__version__} agree")
