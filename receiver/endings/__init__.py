"""How a delivery can end, and the values that carry it there."""
