"""The fleet dashboard's row about callers: who asks, and who is turned away."""

from typing import Final

from llumnix.dashboards.panels import Panel, PanelQuery, PanelRow
from llumnix.dashboards.promql import rate

CALLERS: Final = PanelRow(
    "Callers",
    (
        Panel(
            "Requests per tenant",
            "Responses per second by the tenant of the API key. Empty without API keys; tenants "
            "beyond the first hundred are counted together as `other`.",
            "reqps",
            (PanelQuery(rate("llumnix_tenant_requests_total", "tenant"), "{{tenant}}"),),
            width=12,
        ),
        Panel(
            "Turned away",
            "Requests per second that were refused at the door: no key, an unknown key, or a limit "
            "of the key reached.",
            "reqps",
            (PanelQuery(rate("llumnix_access_refused_total", "reason"), "{{reason}}"),),
            width=12,
        ),
    ),
)
