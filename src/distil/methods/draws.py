"""Draws that depend on a sample's own key alone, for all samples of a batch at once and on their device.

No generator and no look at the host: what is drawn for a sample is the same in any batch, on any rank, after a resume.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["below", "distinct", "mixed"]

STEPS = 1 << 30
"""The steps of :func:`distinct` are primes above it, so that fewer others than that have no factor in common."""

_ROUNDS = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1))


def mixed(*parts: Tensor | int) -> Tensor:
    """Return one 64-bit key from several numbers that broadcast: of equal parts equal, else unrelated.

    The finaliser of SplitMix64 (Steele, Lea, Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014)
    after each part.

    >>> keys = mixed(torch.arange(5), 7)
    >>> len(keys.unique()), torch.equal(keys[2:4], mixed(torch.tensor([2, 3]), 7))
    (5, True)
    """
    state: Tensor | int = 0
    for part in parts:
        state = part + state * 3 - 0x61C8864680B583EB
        state = torch.as_tensor(state)
        for shift, factor in _ROUNDS:  # a shift of int64 brings its sign along
            state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return torch.as_tensor(state)


def below(keys: Tensor, sizes: Tensor | int) -> Tensor:
    """Return one number of 0 … size − 1 for each key.

    >>> bool((below(mixed(torch.arange(9)), 4) < 4).all())
    True
    """
    return (keys & (2**63 - 1)) % sizes


def distinct(keys: Tensor, sizes: Tensor, count: int) -> Tensor:
    """Return ``count`` numbers of 0 … size − 1 for each key, none twice before all have come.

    ``(start + step · k) mod size`` with start and step drawn from the key, the step without a factor in common with
    the size. Every number is as likely as every other; more than ``size`` of them begin anew.

    Args:
        keys: (B,), as `mixed` makes them.
        sizes: (B,), from 1 to 2^30.
        count: of each.

    Returns:
        (B, count), int64.

    >>> distinct(mixed(torch.arange(2)), torch.tensor([4, 3]), 4).sort(1).values[0]
    tensor([0, 1, 2, 3])
    """
    primes = _primes(keys.device)
    # The product of two is as likely one rest as another, which one of three thousand is not quite.
    one, other = (primes[below(mixed(keys, which), len(primes))] % sizes for which in (0, 1))
    step, start = one * other % sizes, below(mixed(keys, 2), sizes)
    found = step[:, None] * torch.arange(count, device=keys.device)
    return found.add_(start[:, None]).remainder_(sizes[:, None])


@lru_cache(maxsize=8)
def _primes(device: torch.device) -> Tensor:
    """The primes between 2^30 and 2^30 + 2^16, some three thousand; brought to a device once."""
    width, root = 1 << 16, int(STEPS**0.5) + 2
    small = torch.ones(root, dtype=torch.bool)
    small[:2] = False
    left = torch.ones(width, dtype=torch.bool)
    for number in range(2, root):
        if small[number]:
            small[number * number :: number] = False
            left[-STEPS % number :: number] = False
    return (left.nonzero().flatten() + STEPS).to(device)
