"""The providers' own bills, and a ledger beside them."""
