"""From experts' corrections to a better bundle: evidence, search, guard, acceptance, drift.

Everything here is arithmetic on stored candidates; no model runs.
"""
