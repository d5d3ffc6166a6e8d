"""What happens to a writable mount when something breaks: its process, its disk, its layers.

`commands`     the command line without the start of an interpreter each time
`steps`        single changes of a tree, and the program that makes them on a mount
`model`        the same changes in memory: what there has to be before and after each
`changes_seen` inotify: to be there at the very moment when something happens
`crash.c`      ends the daemon at, or fails, one chosen system call
`control`      which one
`recorder`     a disk that writes down every write and flush, and marks among them
`power`        such a disk mounted, and the disks that a power cut could have left of it
`history`      what a tree may be after a power cut

Everything random comes of one seed, which a failure names; FAULTS_SEED=… repeats it.
SOAK_MINUTES=… lets the tests that kill go on for that long in all (`make soak-faults`), or those
that cut the power (`make soak-powercut`). These keep a disk that they find wrong below
build/power-cuts, as the cut left it, with what led there: moments are never quite the same again.
"""
