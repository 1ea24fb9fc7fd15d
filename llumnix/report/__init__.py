"""A self-contained HTML page about runs of a fleet: figures, distributions, migrations.

It opens anywhere and loads nothing: styles are in the page and plots are inline SVG, in the
reader's light or dark colours. The plots need the extra `plots`; call `require_plots` before a run
that should end in a report.
"""

from llumnix.report.data import RunReport
from llumnix.report.page import write_report
from llumnix.report.svg import require_plots

__all__ = ["RunReport", "require_plots", "write_report"]
