"""Totals as a text table and as one HTML page."""
