"""Files taken out of images and containers, and brought in, without a mount.

A *source* yields ``CopyItem`` values, each file after the directories above it. A *target* puts
them at their places. Sources are trees of images, directories of the host and tar streams; targets
are directories of the host, uppers of containers, and tar streams.
"""
