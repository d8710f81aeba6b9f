"""A call when the main module is torn down."""

import fastvi as fv
from long_pair import p, q


class Last:
    def __init__(self):
        self.kl, self.p, self.q, self.print = fv.kl, p, q, print
        self.wanted = fv.kl(p, q)

    def __del__(self):
        self.print("torn down", self.kl(self.p, self.q) == self.wanted)


last = Last()
