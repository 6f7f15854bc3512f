# What the core offers and packages that are built on it define. Type checkers and `above.py` read this table.
from specnorm_audit import Report as Report
from specnorm_audit import audit as audit
from specnorm_audit.__main__ import main as main
from specnorm_audit.layer_certificates import certificate_of as certificate_of
