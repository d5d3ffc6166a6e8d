"""Trust in images: the rules of policy.json, and the signatures that they ask for.

::

    policy.json ──► policy ──► requirements ──► verify ──► accepted, or NotTrusted
                    scopes     keys, identity     │
                                                  ├── signatures  registries.d, where they are
                                                  ├── gpg         "simple signing"
                                                  └── sigstore    keys, rekor

The formats, and what is accepted, are those of containers/image, which podman and skopeo use.
"""
