"""How many bytes of clients' bodies the frontend holds at once."""


class Budget:
    """An allowance of bytes that all requests share."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def holding(self) -> "Holding":
        """Return one request's share, empty so far."""
        return Holding(self)


class Holding:
    """What one request holds of the budget, until it gives it back."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held_bytes = 0

    def grow_to(self, size_bytes: int) -> bool:
        """Hold at least so many bytes; return whether there was room."""
        more = size_bytes - self._held_bytes
        if more <= 0:
            return True
        if self._budget.held_bytes + more > self._budget.limit_bytes:
            return False
        self._budget.held_bytes += more
        self._held_bytes = size_bytes
        return True

    def give_back(self) -> None:
        """Hold nothing any more."""
        self._budget.held_bytes -= self._held_bytes
        self._held_bytes = 0
