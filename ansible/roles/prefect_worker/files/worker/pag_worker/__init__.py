"""A Prefect worker for processes that drains when it is stopped and loses no run silently."""
