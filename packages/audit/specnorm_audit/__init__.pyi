from specnorm_audit.auditing import audit as audit
from specnorm_audit.renderers import render as render
from specnorm_audit.report import Report as Report
from specnorm_audit.rows import Row as Row
