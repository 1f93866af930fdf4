"""What computing in low precision costs: bit operations.

A product of a number of v bits and one of w bits takes v w of them, so a multiply-add of two float32 numbers takes 1024
and one of two int8 numbers 64. What is not quantised (attention, norms, the other layers) counts with the network's own
precision, a forecast's weighted sum too.
"""

import torch
from torch import nn


def bit_operations(flops: float, own_bits: int) -> float:
    """Bit operations of so many FLOPs in a network's own precision; a multiply and an add are two FLOPs."""
    return flops / 2 * own_bits**2


def own_bits_of(network: nn.Module) -> int:
    """Bits of a number in the precision that most of a network's weights have."""
    numbers = dict[torch.dtype, int]()
    for parameter in network.parameters():
        numbers[parameter.dtype] = numbers.get(parameter.dtype, 0) + parameter.numel()
    return 8 * max(numbers, key=lambda dtype: numbers[dtype]).itemsize
