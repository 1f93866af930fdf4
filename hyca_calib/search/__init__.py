"""From traces to plans: grouping, schedules, solvers, rollouts, refinement; and whether a plan still holds.

Called, it is `hyca_calib.api.search`.
"""

import sys

from hyca_calib.callable_package import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
