"""An optimizer's state as plain named tensors, which safetensors can hold; no pickle.

Learning rates are the schedule's to save, and the other settings are the configuration's.
"""

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """`<number of the parameter>.<name>`, whole also where FSDP shards it.

    Called by all processes.
    """
    return {
        f"{index}.{name}": (
            value.full_tensor() if isinstance(value, DTensor) else value
        ).contiguous()
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if value is not None
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave. Called by all processes.

    Raises:
        ValueError: The tensors belong to other parameters.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if int(index) >= len(parameters):
            raise ValueError(f"the optimizer has {len(parameters)} parameters, not {key}")
        parameter = parameters[int(index)]
        if value.dim() and value.shape != parameter.shape:
            raise ValueError(f"{key} is {list(value.shape)}, not {list(parameter.shape)}")
        if value.dim() and isinstance(parameter, DTensor):
            value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
        elif value.dim():  # in the parameter's memory format, which fused steps need
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
