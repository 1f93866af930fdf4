"""Every error HyCa raises on purpose. Each says what was got, what was expected and what to do."""

from __future__ import annotations


class HycaError(Exception):
    """Root of all errors of this project."""


class PlanError(HycaError, ValueError):
    """A plan is malformed, truncated, or contradicts itself."""


class PlanMismatchError(PlanError):
    """A sound plan that was made for something else than what it is applied to."""


class CertificateError(PlanError):
    """A plan without the certificate that was asked for."""


class PlanMismatchWarning(UserWarning):
    """A run left its plan (other steps or times) and is computed in full."""


class CertificateWarning(UserWarning):
    """A plan was changed after it was certified: what its certificate says is not of it."""


class PrecisionWarning(UserWarning):
    """A plan follows a network whose weights are rounded more than those that it was certified on."""


class ForecastWarning(UserWarning):
    """A forecast held NaN or infinity, and the network was computed instead."""


class MissingHistoryWarning(UserWarning):
    """A step that the plan predicts is computed: its branch lacks the features it would be forecast from."""


class AttachError(HycaError, RuntimeError):
    """A model cannot be wrapped, or was wrapped by something else in between."""


class ClockError(HycaError, RuntimeError):
    """The step of a network call cannot be told."""


class BudgetError(HycaError, ValueError):
    """A compute budget is malformed or cannot be met."""


class WorkloadError(HycaError, ValueError):
    """A model name, a prompt file or a sampling setting is unusable."""


class TraceError(HycaError, ValueError):
    """A trace is missing, incomplete, damaged, or does not fit the request."""


class StudyError(HycaError, ValueError):
    """A study folder holds something else than what was asked for."""


class SamplerError(HycaError, RuntimeError):
    """Lanes of one sample cannot be run as asked, or one of them was lost."""
