"""`main_process_first` as a script: `main_first.py ok|fail`, started once a process by a test."""

import sys
import time

from mmgenre.training.accelerator import create_accelerator, main_process_first
from mmgenre.utils.errors import UserError, exit_on_user_error

with exit_on_user_error("main_first"):
    accelerator = create_accelerator(ddp_timeout=1)
    with main_process_first(accelerator):
        if accelerator.is_main_process:
            time.sleep(2)  # the work, longer than the process group waits
            if sys.argv[1] == "fail":
                raise UserError("no movies")
        print(time.monotonic())
