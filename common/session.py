"""What a script that computes needs while it runs."""

from contextlib import contextmanager

from common.hardware.device import choose_device
from common.hardware.distributed import process_group
from common.storage.atomic import exclusive_lock


@contextmanager
def session(out, name, device="cpu", deterministic=False):
    """Give the torch.device called `device`, and let no other process write the files {name}.* in `out` meanwhile.

    Raises ValueError, OSError and ConnectionError as `choose_device`, `exclusive_lock` and `process_group` do.
    """
    with process_group(choose_device(device, deterministic)) as chosen, exclusive_lock(out, name):
        yield chosen
