"""Budgets: limits on what calls may use, checked before a call is sent."""

from token_handlers.budget.budget import Amounts, Budget, BudgetWarning, Spent

__all__ = ["Amounts", "Budget", "BudgetWarning", "Spent"]
