"""Random names for containers: an adjective and an animal."""

from __future__ import annotations

ATTEMPTS = 100  # attempts to find a free name of two words

ADJECTIVES = (
    *("able", "agile", "amber", "ample", "bold", "brave", "brief", "bright", "brisk", "calm"),
    *("candid", "clear", "clever", "cool", "cosy", "crisp", "curious", "daring", "deep", "eager"),
    *("early", "easy", "fair", "fast", "fine", "fleet", "fond", "frank", "fresh", "gentle"),
    *("glad", "golden", "grand", "happy", "hardy", "honest", "jolly", "keen", "kind", "late"),
    *("light", "lively", "loyal", "lucky", "mellow", "merry", "mild", "modest", "neat", "nimble"),
    *("noble", "patient", "plain", "polite", "proud", "quick", "quiet", "rapid", "ready", "rosy"),
    *("rustic", "serene", "sharp", "silent", "silver", "smooth", "sober", "solid", "steady"),
    *("still", "sunny", "swift", "tidy", "tranquil", "vivid", "warm", "wise", "witty", "young"),
)
ANIMALS = (
    *("adder", "badger", "bat", "bear", "beaver", "bee", "bison", "bittern", "boar", "bream"),
    *("camel", "carp", "cat", "cod", "condor", "cormorant", "crane", "cricket", "crow", "curlew"),
    *("deer", "dove", "duck", "eagle", "eel", "egret", "elk", "falcon", "ferret", "finch"),
    *("fox", "frog", "gecko", "goose", "grouse", "gull", "hare", "hawk", "hedgehog", "heron"),
    *("horse", "ibex", "jackdaw", "jay", "kestrel", "kite", "koala", "lapwing", "lark", "lemur"),
    *("linnet", "lynx", "magpie", "marten", "mole", "moose", "moth", "mouse", "newt", "otter"),
    *("owl", "panda", "perch", "pike", "plover", "puffin", "quail", "raven", "robin", "salmon"),
    *("seal", "shrew", "snail", "sparrow", "squirrel", "stork", "swan", "swift", "tapir", "teal"),
    *("tern", "thrush", "toad", "trout", "turtle", "vole", "walrus", "weasel", "whale", "wren"),
)
