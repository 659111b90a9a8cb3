"""A conda channel that tests make themselves: a Python, compiled code, scripts, and a whole Prefect."""
