# For type checkers alone: names of `specnorm` that packages above it define, which are found by entry point.
from specnorm_audit import Report as Report
from specnorm_audit import audit as audit
