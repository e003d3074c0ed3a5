"""The mean that the server promises, computed a second time: with Python's whole numbers, from the words of the design.

Each weight is scaled by a power of two, rounded to a whole number (half to
even), multiplied by the contribution's weight and added; the mean is the sum
divided in float64 and rounded once to float32. The exponent is fixed per tensor
by the base version: 62 bits, less the bits of the bound (2^10 times the largest
absolute weight of the tensor, at least 1), less the bits of the cap on the
round's total weight. Where fewer than 30 bits would be left below the tensor's
largest weight, a second limb of the same kind holds what the first leaves over.
"""
