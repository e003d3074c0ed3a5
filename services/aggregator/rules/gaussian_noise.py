"""Gaussian noise in whole numbers, from a secret: the same secret and purpose give the same noise. Pure: no store.

The noise on each weight is drawn from the discrete Gaussian: a whole number i with a probability that is
proportional to exp(−i² / 2σ²), σ whole. Drawn exactly, by Karney's method ("Sampling exactly from the normal
distribution", arXiv 1303.6257, in its form for whole numbers), with |i| = kσ + j:

    1   k ≥ 0 with probability ∝ exp(−k / 2)             4   accept with exp(−k · j/σ − (j/σ)² / 2)
    2   accept with exp(−k (k − 1) / 2)                  5   a sign; −0 is rejected
    3   j of 0 … σ − 1, each alike

A coin that shows heads with probability exp(−p) is made of coins for p / 1, p / 2, p / 3, … (von
Neumann): heads if the first tails comes at an odd place. All of those are comparisons of random
whole numbers. So no logarithm and no root is taken, no float is
rounded, nothing depends on a processor or a library's version, no value of the noise
is impossible, and what is known of rounded floats (Mironov, "On significance of the least significant bits
for differential privacy", 2012) does not apply.

Random numbers are the key stream of ChaCha20 under a key that HKDF-SHA256 derives from the secret and the
purpose. How long drawing takes tells a little about the noise to who can measure it on the server itself.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

SECRET_BYTES = 32
MAX_DEVIATION = 2**55
_LARGEST_K = 64
"""What is proposed beyond 64σ, once in e^32 times, is accepted once in e^2000: never."""
_PROPOSALS_FOR_ONE = 2.25

Numbers = NDArray[np.int64]
Truths = NDArray[np.bool_]


class GaussianNoise:
    """Noise of one purpose. `deviation` is σ, in units."""

    def __init__(self, secret: bytes, purpose: bytes, *, deviation: int) -> None:
        assert len(secret) == SECRET_BYTES, "made with this length, and checked when it is read"
        assert 0 < deviation <= MAX_DEVIATION, "64 deviations must fit a word"
        self._words = _Words(secret, purpose)
        self._deviation = deviation

    def draw(self, count: int) -> Numbers:
        """The next numbers."""
        drawn: Numbers = np.empty(count, dtype="<i8")
        have = 0
        while have < count:
            accepted = self._proposed(int((count - have) * _PROPOSALS_FOR_ONE) + 64)[: count - have]
            drawn[have : have + accepted.size] = accepted
            have += accepted.size
        return drawn

    def _proposed(self, count: int) -> Numbers:
        """Those of so many proposals that are accepted."""
        k = self._geometric(count)
        k = k[self._all_heads(k * (k - 1))]
        j = self._words.below(self._deviation, k.size)
        accepted = self._accepted(k, j)
        k, j = k[accepted], j[accepted]
        sign = 1 - 2 * self._words.below(2, k.size)
        values = k * self._deviation + j
        return (sign * values)[(values > 0) | (sign > 0)]

    def _geometric(self, count: int) -> Numbers:
        k: Numbers = np.zeros(count, dtype="<i8")
        going = np.arange(count)
        while going.size:
            going = going[self._half_heads(going.size)]
            k[going] += 1
            going = going[k[going] < _LARGEST_K]
        return k

    def _all_heads(self, tosses: Numbers) -> Truths:
        """Whether all of so many coins of exp(−1/2) show heads."""
        heads = np.ones(tosses.size, dtype=bool)
        going, tossed = np.flatnonzero(tosses > 0), 0
        while going.size:
            shown = self._half_heads(going.size)
            heads[going[~shown]] = False
            tossed += 1
            going = going[shown]
            going = going[tosses[going] > tossed]
        return heads

    def _accepted(self, k: Numbers, j: Numbers) -> Truths:
        accepted = self._heads(j, squared_half=True)
        going, tossed = np.flatnonzero(accepted & (k > 0)), 0
        while going.size:
            shown = self._heads(j[going], squared_half=False)
            accepted[going[~shown]] = False
            tossed += 1
            going = going[shown]
            going = going[k[going] > tossed]
        return accepted

    def _half_heads(self, count: int) -> Truths:
        """Coins of exp(−1/2)."""
        heads = np.zeros(count, dtype=bool)
        going, place = np.arange(count), 1
        while going.size:
            shown = self._words.below(2 * place, going.size) == 0
            heads[going[~shown]] = place % 2 == 1
            going = going[shown]
            place += 1
        return heads

    def _heads(self, j: Numbers, *, squared_half: bool) -> Truths:
        """Coins of exp(−j/σ), or of exp(−(j/σ)² / 2)."""
        heads = np.zeros(j.size, dtype=bool)
        going, place = np.arange(j.size), 1
        while going.size:
            shown = self._words.below(self._deviation, going.size) < j[going]
            if squared_half:
                shown &= self._words.below(self._deviation, going.size) < j[going]
                shown &= self._words.below(2 * place, going.size) == 0
            elif place > 1:
                shown &= self._words.below(place, going.size) == 0
            heads[going[~shown]] = place % 2 == 1
            going = going[shown]
            place += 1
        return heads


class _Words:
    """Random whole numbers from a key stream."""

    def __init__(self, secret: bytes, purpose: bytes) -> None:
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"disco noise v1\0" + purpose).derive(secret)
        self._stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()

    def below(self, bound: int, count: int) -> Numbers:
        """Each of 0 … bound − 1 alike."""
        mask = np.uint64((1 << (bound - 1).bit_length()) - 1)
        numbers = self._masked(mask, count)
        if bound & (bound - 1):
            again = np.flatnonzero(numbers >= bound)
            while again.size:
                numbers[again] = self._masked(mask, again.size)
                again = again[numbers[again] >= bound]
        return numbers

    def _masked(self, mask: np.uint64, count: int) -> Numbers:
        words = np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")
        return (words & mask).astype("<i8")
