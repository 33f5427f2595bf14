"""Training steps in PyTorch on a CPU, in f32 and in bf16, in turns with those of tilewise.

Each of five networks is trained on one batch of random numbers by

- `f32`: PyTorch in f32,
- `autocast`: parameters in f32, forward pass under `torch.autocast`, input in f32,
- `autocast, bf16 input`: the same with an input that was rounded before,
- `bf16 + master`: parameters, input and gradients in bf16; the optimizer updates a copy in f32, which is
  rounded into them,

each with the optimizer's `foreach` and `fused` code, and by `tilewise bench train` in f32 and in bf16.
In every round each of them is measured once. From the repository's root, where Python has torch:

cargo build --release
python3 benches/pytorch/steps.py target/release/tilewise --threads 2

PyTorch's batch consists of numbers; tilewise gathers and converts bytes in each step. Modules are not
compiled with `torch.compile`.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

# Libraries of GPUs, whose functions nobody calls here, need not be complete.
sys.setdlopenflags(os.RTLD_LAZY)

import torch

# Sizes, optimizer, dropout.
ROWS = [
    ([3072, 200, 10], "sgd", 0.0),
    ([3072, 512, 1024, 10], "sgd", 0.0),
    ([3072, 512, 1024, 10], "nesterov", 0.0),
    ([3072, 512, 1024, 10], "adam", 0.0),
    ([3072, 128, 256, 512, 1024, 10], "sgd", 0.1),
]
LEARNING_RATE = 1e-3
VARIANTS = [(precision, code) for code in ("foreach", "fused")
            for precision in ("f32", "autocast", "autocast, bf16 input", "bf16 + master")]


def network(sizes, dropout):
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:]):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
        layers += [torch.nn.Dropout(dropout)] if dropout else []
    # Nothing follows the last linear layer.
    return torch.nn.Sequential(*layers[:-2 if dropout else -1])


def make_optimizer(name, parameters, code):
    options = {"lr": LEARNING_RATE, code: True}
    if name == "adam":
        return torch.optim.Adam(parameters, **options)
    if name == "nesterov":
        return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **options)
    return torch.optim.SGD(parameters, **options)


class Steps:
    """A network that is trained in one way."""

    def __init__(self, row, batch, variant):
        (sizes, optimizer, dropout), (self.precision, code) = row, variant
        torch.manual_seed(0)
        self.model = network(sizes, dropout).train()
        self.x = torch.rand(batch, sizes[0]) - 0.5
        self.labels = torch.arange(batch) % sizes[-1]
        if self.precision in ("autocast, bf16 input", "bf16 + master"):
            self.x = self.x.bfloat16()
        self.parameters = list(self.model.parameters())
        self.master = self.parameters
        if self.precision == "bf16 + master":
            self.master = [parameter.detach().clone() for parameter in self.parameters]
            self.model.bfloat16()
            self.parameters = list(self.model.parameters())
            for master in self.master:
                master.grad = torch.empty_like(master)
        self.optimizer = make_optimizer(optimizer, self.master, code)
        self.seconds = []

    def step(self):
        for parameter in self.parameters:
            parameter.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.precision.startswith("auto")):
            logits = self.model(self.x)
        loss = torch.nn.functional.cross_entropy(logits.float(), self.labels)
        loss.backward()
        if self.master is self.parameters:
            self.optimizer.step()
        else:
            gradients = [parameter.grad for parameter in self.parameters]
            torch._foreach_copy_([master.grad for master in self.master], gradients)
            self.optimizer.step()
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.master)
        return loss

    def measure(self, seconds):
        """Adds the times of steps to `seconds`; the first two warm up."""
        self.step()
        self.step()
        end = time.perf_counter() + seconds
        while not self.seconds or time.perf_counter() < end:
            begin = time.perf_counter()
            self.step()
            self.seconds.append(time.perf_counter() - begin)


def tilewise(program, row, args, precision):
    """The median and the fastest step of tilewise in milliseconds, and the fraction of the peak."""
    sizes, optimizer, dropout = row
    command = [program, "bench", "train", "--json", "--backends", "tilewise",
               "--dims", ",".join(map(str, sizes)), "--optimizer", optimizer,
               "--dropout", str(dropout), "--batch", str(args.batch), "--precision", precision,
               "--threads", str(args.threads), "--seconds", str(args.seconds)]
    line = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return line["median_ms"], line["min_ms"], line["fraction"]


def main():
    parser = argparse.ArgumentParser(description="Training steps of PyTorch and of tilewise, in turns")
    parser.add_argument("tilewise", help="the program")
    parser.add_argument("--threads", type=int, default=1, help="threads of both [default: 1]")
    parser.add_argument("--batch", type=int, default=512, help="batch size [default: 512]")
    parser.add_argument("--seconds", type=float, default=0.3,
                        help="time of a measurement [default: 0.3]")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each [default: 3]")
    parser.add_argument("--rows", type=int, nargs="*", default=range(len(ROWS)),
                        help="numbers of the networks, from 0 [default: all]")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, "
          f"batch {args.batch}, {args.threads} threads; milliseconds a step")
    for row in (ROWS[number] for number in args.rows):
        print(f"{'-'.join(map(str, row[0]))}, {row[1]}, dropout {row[2]}")
        contestants = [Steps(row, args.batch, variant) for variant in VARIANTS]
        own = {"f32": [], "bf16": []}
        for _ in range(args.rounds):
            for contestant in contestants:
                contestant.measure(args.seconds)
            for precision, results in own.items():
                results.append(tilewise(args.tilewise, row, args, precision))
        for contestant, (precision, code) in zip(contestants, VARIANTS):
            median = 1e3 * statistics.median(contestant.seconds)
            fastest = 1e3 * min(contestant.seconds)
            name = f"PyTorch {precision}, {code}"
            print(f"  {name:38} median {median:7.2f}  fastest {fastest:7.2f}", flush=True)
        for precision, results in own.items():
            medians, fastest, fractions = zip(*results)
            name = f"tilewise {precision}"
            print(f"  {name:38} median {statistics.median(medians):7.2f}  "
                  f"fastest {min(fastest):7.2f}  of the peak {max(fractions):.2f}", flush=True)


main()
