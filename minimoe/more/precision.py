"""bfloat16 without hardware for it: float32 numbers that lie on bfloat16's grid."""
from ..backend import xp


def round_bfloat16(x):
    """y = x rounded to the nearest bfloat16, half way to the even one, stored as float32.

    Switch Transformer, Sec. 2.4 trains in bfloat16: float32 with the last 16 of its 23 bits of fraction cut away.

    x  (...) float32    y  (...) float32: infinities and NaN stay, and what is above the largest bfloat16 becomes infinite

    backward(dy) -> dx = dy: straight through, as if nothing were rounded.   Raises TypeError for another dtype.
    """
    if x.dtype != xp.float32:
        raise TypeError(f"x is {x.dtype}; expected float32")
    bits = x.view(xp.uint32)
    half = 0x7FFF + ((bits >> 16) & 1)                      # below one half; with the bit that makes a tie go to even, above
    rounded = ((bits + half) & 0xFFFF0000).view(xp.float32)

    def backward(dy):
        return dy.copy()

    return xp.where(xp.isnan(x), x, rounded), backward
