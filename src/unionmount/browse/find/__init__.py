"""find(1) for the tree of an image.

``parse`` reads an expression as GNU find does, into the nodes of ``expression``. ``tests`` and
``actions`` have its primaries. ``program`` turns what it can into steps that the core runs, and
``search`` walks: most files are judged in C, and the rest by the nodes.
"""
