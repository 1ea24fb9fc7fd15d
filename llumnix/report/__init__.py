"""One self-contained HTML page about some runs of a fleet: figures, distributions, migrations.

It opens anywhere and loads nothing: styles are in the page and plots are inline SVG, in the
reader's light or dark colours.
"""

from llumnix.report.data import RunReport
from llumnix.report.page import write_report

__all__ = ["RunReport", "write_report"]
