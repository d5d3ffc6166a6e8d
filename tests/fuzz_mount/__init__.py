"""Fuzzing live mounts, while others change the directories below them on disk.

The real program serves, with its C core under ASAN and UBSAN. Some processes use the mount, others
own what is below it and change that as an enemy would (`owners`). Everything random comes of one
seed; what the processes do at the same time does not.

    python -m fuzz_mount [--variant NAME]…      FUZZ_SECONDS, FUZZ_SEED

It runs in mount and PID namespaces of its own, on a tmpfs that nobody else sees, and needs root.

What has to hold (`rounds`): the daemon lives, and says nothing that it should not have to say;
every system call returns (`watch`); what is neither in the lowers nor in the upper is neither
changed nor shown; a lower that nobody changes stays as it is; and at the end the mount can be taken
away.
"""
