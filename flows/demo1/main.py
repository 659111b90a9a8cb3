"""Demo 1: tasks, logs and a result, on the CPU pool."""

from prefect import flow, get_run_logger, task


@task
def square(number: int) -> int:
    """Return the square of *number*."""
    get_run_logger().info("%d squared is %d", number, number * number)
    return number * number


# The function is my_workflow in every demo; the name keeps their deployments apart.
@flow(name="demo1")
def my_workflow(count: int = 4) -> int:
    """Add the first squares up, each computed by a task of its own."""
    total = sum(square.map(range(1, count + 1)).result())
    get_run_logger().info("The first %d squares add up to %d", count, total)
    return total


if __name__ == "__main__":
    my_workflow()
