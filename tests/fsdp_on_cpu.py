"""`train.py` with FSDP2 over gloo, for tests without a GPU.

Accelerate itself shards over GPUs only; here it is told that these CPU processes are such. The rest
is what `accelerate_configs/fsdp.yaml` makes of the environment.
"""

import runpy
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType

PartialState(cpu=True)._shared_state["distributed_type"] = DistributedType.MULTI_GPU
runpy.run_path(str(Path(__file__).parents[1] / "train.py"), run_name="__main__")
