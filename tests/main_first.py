"""`main_process_first` as a script: `main_first.py ok|fail`, started once a process by a test."""

import sys
import time
from datetime import timedelta

from mmgenre.training import accelerator as module
from mmgenre.utils.errors import UserError, exit_on_user_error

module.PROCESS_GROUP_TIMEOUT = timedelta(seconds=1)

with exit_on_user_error("main_first"):
    accelerator = module.create_accelerator()
    with module.main_process_first(accelerator):
        if accelerator.is_main_process:
            time.sleep(2)  # the work, longer than the process group waits
            if sys.argv[1] == "fail":
                raise UserError("no movies")
        print(time.monotonic())
