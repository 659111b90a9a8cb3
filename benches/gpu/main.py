"""A flow that says which GPU it sees."""

from prefect import flow


@flow(log_prints=True)
def my_workflow() -> None:
    """Print the first GPU's name."""
    import torch

    print(torch.cuda.get_device_name(0))


if __name__ == "__main__":
    my_workflow()
