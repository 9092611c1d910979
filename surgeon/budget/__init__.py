"""How much goes, and where: ratio, limits or positions -> a Plan."""

from surgeon.budget.choose import choose
from surgeon.budget.cost import Cost, Total
from surgeon.budget.limit import Limit
from surgeon.budget.request import Request

__all__ = ["Cost", "Limit", "Request", "Total", "choose"]
