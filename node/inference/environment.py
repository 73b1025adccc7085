"""What must be settled before torch and nnunetv2 are imported; imports neither."""

import os


def cores(threads: int) -> int:
    """How many threads to use; 0 asks for every core this process may run on."""
    return threads or len(os.sched_getaffinity(0))


def prepare(threads: int) -> None:
    """Tells nnU-Net and OpenMP how many threads they may use and how these wait.

    Unasked, nnU-Net sets torch to 8 threads on any machine and runs `hostname` to look for its
    own; OpenMP's threads spin while they wait, which doubles the time where cores are shared.
    """
    number = str(cores(threads))
    os.environ.update({"nnUNet_def_n_proc": number, "nnUNet_n_proc_DA": number})
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
