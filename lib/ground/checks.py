"""Values that are NaN or infinite are refused by name, before clipping or a comparison makes them look plausible."""

import numpy as np


def finite(what: str, values, missing: bool = False):
    """`values` (an array, a tensor or a number) unchanged, if all are finite; with `missing`, NaN is allowed.

    Otherwise raises ValueError that says how many values of `what` are not finite, and where the first is.
    """
    if hasattr(values, "isfinite"):  # a tensor, on any device
        good = (values.isfinite() | values.isnan() if missing else values.isfinite()).cpu().numpy()
    else:
        array = np.asarray(values)
        if array.dtype.kind not in "fcO":
            return values
        array = array.astype(float) if array.dtype.kind == "O" else array  # None becomes NaN
        good = np.isfinite(array) | np.isnan(array) if missing else np.isfinite(array)
    if good.all():
        return values
    bad, kinds = np.argwhere(~good), "infinite" if missing else "NaN or infinite"
    if not good.ndim:
        raise ValueError(f"{what} is {kinds}: expected a finite number")
    count, place = f"{len(bad):,} of {good.size:,}", ", ".join(map(str, bad[0]))
    raise ValueError(f"{count} values of {what} are {kinds}, the first at [{place}]: expected finite numbers")
