"""Print schedules as Prefect itself reads them, as one line of JSON: ``python schedules.py JSON``.

Takes a list of lists of ``{"schedule": {...}, ...}``. Prints ``{"schedules": [[...], ...]}`` or
``{"error": sentence}``.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def normalised(schedule: dict[str, Any]) -> dict[str, Any]:
    """Return *schedule* with a form that the server gives back. Raises ValueError with a sentence."""
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule

    kinds = {"cron": CronSchedule, "interval": IntervalSchedule, "rrule": RRuleSchedule}
    kind = next(name for name in kinds if name in schedule)
    try:
        parsed = kinds[kind](**schedule).model_dump(mode="json")
    except Exception as error:
        errors = getattr(error, "errors", None)
        reason = "; ".join(str(entry["msg"]) for entry in errors()) if errors else str(error)
        raise ValueError(
            f"The schedule {schedule[kind]!r} ({kind}, timezone {schedule['timezone']}) does not parse: {reason}."
        ) from error
    # An anchor that nobody asked for is the moment of asking: left to the server.
    return {key: parsed[key] for key in schedule if key != "interval"} | (
        {"interval": float(parsed["interval"])} if kind == "interval" else {}
    )


def main() -> None:
    """Print the answer."""
    try:
        answer: dict[str, Any] = {
            "schedules": [
                [entry | {"schedule": normalised(entry["schedule"])} for entry in schedules]
                for schedules in json.loads(sys.argv[1])
            ]
        }
    except ValueError as error:
        answer = {"error": " ".join(str(error).split())}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
