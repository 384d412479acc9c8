"""How far rounding alone carries what is computed from a model's weights."""
import copy

import torch


def moved_by_rounding(model, digits=24):
    """The model with every weight moved by what float32 rounds off, or more, with fewer `digits`; and the frequencies of rotary positions by an
    ulp: each side computes them its own way, and a far position makes an angle of them that has lost as many digits as it is long."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 2.0**-digits * torch.randn(parameter.shape))
        for name, buffer in model.named_buffers():
            if name.endswith("inv_freq"):
                buffer.mul_(1 + 2.0**-23 * torch.randn(buffer.shape))
    return model


def runs_moved_by_rounding(model, run, times=8):
    """What `run` makes of copies whose weights have moved by a few ulps: whatever lies near an edge, such as a ReLU's, falls to either side."""
    return [run(moved_by_rounding(copy.deepcopy(model), digits=21)) for _ in range(times)]
