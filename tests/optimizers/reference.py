"""Writes updates.csv and schedules.csv beside this file: the results of PyTorch's optimizers and
the learning-rate schedules, in double precision. Made with PyTorch 2.15.

Parameters w (7 of them), from step t = 1 on, with gradients
g[i] = curvature[i] * (w[i] - target[i]) + noise(t, i); numbers that both sides compute exactly:
curvature[i] = (i + 1) / 8, target[i] = 8 + i, noise = ((t * 37 + i * 101) % 64 - 32) / 64.
"""

import csv
import pathlib
import warnings

import torch
from torch.optim import lr_scheduler

HERE = pathlib.Path(__file__).parent
PARAMETERS, STEPS, EVERY = 7, 100, 10


def optimizers():
    """(name, learning rate, weight decay, momentum of RMSProp, constructor)"""
    optim = torch.optim
    for decay in [0.0, 0.01]:
        yield "sgd", 0.05, decay, 0.0, lambda p, lr, d: optim.SGD(p, lr=lr, weight_decay=d)
        yield "momentum", 0.02, decay, 0.0, lambda p, lr, d: optim.SGD(
            p, lr=lr, weight_decay=d, momentum=0.9
        )
        yield "nesterov", 0.02, decay, 0.0, lambda p, lr, d: optim.SGD(
            p, lr=lr, weight_decay=d, momentum=0.9, nesterov=True
        )
        yield "adagrad", 0.5, decay, 0.0, lambda p, lr, d: optim.Adagrad(p, lr=lr, weight_decay=d)
        for momentum in [0.0, 0.5]:
            yield "rmsprop", 0.03, decay, momentum, lambda p, lr, d, m=momentum: optim.RMSprop(
                p, lr=lr, weight_decay=d, momentum=m
            )
        yield "adam", 0.1, decay, 0.0, lambda p, lr, d: optim.Adam(p, lr=lr, weight_decay=d)
        yield "adamw", 0.1, decay, 0.0, lambda p, lr, d: optim.AdamW(p, lr=lr, weight_decay=d)


def write_updates():
    with open(HERE / "updates.csv", "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        w_names = [f"w{i}" for i in range(PARAMETERS)]
        out.writerow(["rule", "lr", "weight_decay", "rms_momentum", "step"] + w_names)
        for name, rate, decay, momentum, make in optimizers():
            index = torch.arange(PARAMETERS, dtype=torch.float64)
            curvature, target = (index + 1) / 8, 8 + index
            w = torch.full((PARAMETERS,), 2.0, dtype=torch.float64, requires_grad=True)
            optimizer = make([w], rate, decay)
            for t in range(1, STEPS + 1):
                noise = ((t * 37 + index * 101) % 64 - 32) / 64
                w.grad = (curvature * (w.detach() - target) + noise).clone()
                optimizer.step()
                if t % EVERY == 0:
                    out.writerow([name, rate, decay, momentum, t] + [repr(x) for x in w.tolist()])


def schedulers():
    """(name, base, epochs, steps an epoch, warm-up steps, once an epoch, constructor); the
    constructor gets the steps (or epochs) behind the warm-up."""
    yield "constant", 0.3, 3, 4, 5, False, lambda o, n: lr_scheduler.ConstantLR(o, factor=1.0)
    yield "epoch-decay", 0.3, 8, 3, 0, True, lambda o, n: lr_scheduler.ExponentialLR(o, gamma=0.9)
    yield "step", 0.3, 9, 3, 0, True, lambda o, n: lr_scheduler.StepLR(o, step_size=2, gamma=0.5)
    for warm_up in [0, 7]:
        yield "cosine", 0.3, 8, 5, warm_up, False, lambda o, n: lr_scheduler.CosineAnnealingLR(
            o, T_max=n, eta_min=0.01
        )
    for share, epochs in [(0.3, 10), (0.25, 8)]:
        yield f"one-cycle {share}", 0.3, epochs, 4, 0, False, lambda o, n, s=share: (
            lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=n, pct_start=s)
        )


def write_schedules():
    warnings.filterwarnings("ignore")
    with open(HERE / "schedules.csv", "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["curve", "base", "epochs", "steps_per_epoch", "warm_up_steps", "rates"])
        for name, base, epochs, per_epoch, warm_up, by_epoch, make in schedulers():
            optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
            total = epochs * per_epoch
            if warm_up > 0:
                first = lr_scheduler.LinearLR(
                    optimizer, start_factor=1 / (warm_up + 1), total_iters=warm_up
                )
                curve = make(optimizer, total - warm_up)
                scheduler = lr_scheduler.SequentialLR(optimizer, [first, curve], [warm_up])
            else:
                scheduler = make(optimizer, epochs if by_epoch else total)
            rates = []
            for step in range(1, total + 1):
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                if step < total and (not by_epoch or step % per_epoch == 0):
                    scheduler.step()
            out.writerow([name, base, epochs, per_epoch, warm_up, " ".join(map(repr, rates))])


write_updates()
write_schedules()
