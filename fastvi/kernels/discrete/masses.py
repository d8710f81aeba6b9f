"""Codes of the keyword `mass`, and the limits of masses. Used by the kernels and by the checks of the API."""

#: The sum must be one; divide by the sum; take the sum as it is.
UNIT, NORMALIZE, ANY = 0, 1, 2

#: Tolerance of a unit sum, for float64 and float32.
UNIT_TOLERANCE64 = 1e-6
UNIT_TOLERANCE32 = 1e-3

#: Largest distance from 1 of the sum of many weights, which is divided out.
WEIGHTS_TOLERANCE = 1e-6

#: Larger sums are refused: times 2**54 (`normalized.LIFT`) they must stay finite.
LARGEST_MASS = 2.0**960
