"""The same random operations on several mounts of the same lower directories, compared.

`worker`      what is done to one mount: processes of several users, with handles of their own
`lowers`      lower directories: as values, on disk, as an image, and a strategy for them
`sides`       what is compared: the kernel's overlayfs, a plain directory, and the subject
`deviations`  where the kernel's overlayfs is known not to be right, and why
`run`         one run: a step on all sides, the comparison of the trees, the script to repeat it
`machine`     the Hypothesis state machine that makes up the steps
`maps`        stored and shown owners: the same on idmapped mounts
`variants`    what is compared: served for whom, stacked of what
`explore`     runs of the machine
`soak`        the same for as long as one likes
"""
