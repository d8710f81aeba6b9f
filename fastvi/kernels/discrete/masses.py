"""What kernels are told about the sums of distributions."""

#: The sum must be one; divide by the sum; any sum will do.
UNIT, NORMALIZE, ANY = 0, 1, 2

#: How far a sum may be from one, by item size.
UNIT_TOLERANCE64 = 1e-6
UNIT_TOLERANCE32 = 1e-3

#: Larger sums are refused: scaled by 2**54, as some loops do, they must stay finite.
LARGEST_MASS = 2.0**960
