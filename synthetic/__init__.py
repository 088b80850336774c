"""Rendered faces with identities, exact landmarks and known nuisance."""

from synthetic.population import Report, render_populations
from synthetic.sheet import contact_sheet

__all__ = ["Report", "contact_sheet", "render_populations"]
