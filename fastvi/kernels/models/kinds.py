"""Kinds of a latent coordinate: a number for each shape of the support of a coordinate of z."""

REAL = 0  #: z itself
LOWER = 1  #: z > a, by log(z - a)
UPPER = 2  #: z < b, by log(b - z)
INTERVAL = 3  #: a < z < b, by the logit of (z - a) / (b - a)
SIMPLEX = 4  #: an entry of a simplex, by the logit of its share of what the entries before it leave
ORDERED = 5  #: an entry above the one before it, by the logarithm of the difference
CORRELATION = 6  #: an entry below the diagonal of the Cholesky factor of a correlation matrix, see `supports`
