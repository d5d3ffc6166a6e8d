"""The packages of an image, read from the databases of package managers inside it.

::

    places ──► dpkg, apk, rpm, python, npm ──► catalogue ──► spdx, cyclonedx
    which files                 one parser        the layer of
    tell of packages            for each          each package

Everything that is read comes from the image and is not trusted: sizes are bounded, text is decoded
whatever its bytes are, and a damaged file is a ``FormatError`` about that file alone.
"""
