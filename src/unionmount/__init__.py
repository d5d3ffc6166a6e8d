"""Mount a container image as a directory.

The parts, each a module: ``reference`` and ``image`` (what an image is), ``sources``, ``pull``,
``layer`` and ``store`` (how it gets here and is kept), ``core`` (the tree, in C), ``operations``
and ``mount`` (the file system), ``cli`` (the command line).
"""
