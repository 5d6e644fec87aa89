"""SharedStore: the accounts of a fleet's budget, on a Redis-protocol server."""

from token_handlers.budget.limits import Amounts, BudgetState, Limits, Reservation, ReservationResult, Store
from token_handlers.errors import StoreUnavailable
from token_handlers.usage import new_event_id


class SharedStore:
    """A budget's accounts in a RedisCounter, by LocalStore's methods; all but `settle` wait for the network."""

    def __init__(self, store: Store, per: str | None, hold_seconds: float) -> None:
        self._store = store
        self._per = per
        self._hold_seconds = hold_seconds

    def reserve(self, reservation: Reservation, limits: Limits) -> ReservationResult:
        """Reserve what a call may use if the limits leave room; raise StoreUnavailable without an answer."""
        amounts = reservation.amounts
        reservation.id = reservation.id or new_event_id()
        reservation.held = True  # set before asking: whatever interrupts this, it may be held
        try:
            result = self._store.reserve(
                reservation.account,
                reservation=reservation.id,
                cost=amounts.cost,
                tokens=amounts.tokens,
                requests=amounts.requests,
                limits=limits,
                window=self._per,
                ttl=self._hold_seconds,
            )
        except StoreUnavailable:
            reservation.held = False  # if only the answer was lost, the store releases it by itself
            raise
        if not result.granted:
            reservation.held = False
        return result

    def settle(self, reservation: Reservation, amounts: Amounts) -> None:
        """Book what a call used, from a background thread."""
        if not reservation.booked:
            cost, tokens, requests = amounts
            name = reservation.id = reservation.id or new_event_id()
            self._store.settle(reservation.account, name, cost=cost, tokens=tokens, requests=requests, wait=False)
            reservation.booked, reservation.held = True, False

    def release(self, reservation: Reservation, *, wait: bool = False) -> None:
        """Release what a call reserved, if anything; with ``wait`` before this returns."""
        if reservation.id is not None and reservation.held:
            self._store.release(reservation.account, reservation.id, wait=wait)
            reservation.held = False

    def state(self, name: str) -> BudgetState:
        """Return what an account has spent in this window, and what its calls have reserved."""
        return self._store.spent(name, self._per)
