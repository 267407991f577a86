"""Random Indigo-like objects, random changes, and what dictdiffer makes of them.

    cases.py SEED COUNT > cases.jsonl

Each line holds `old`, `new`, the `patch`, and `exact`: whether dictdiffer's own `patch` turns one
into the other (it cannot where a key is the empty text).
"""

import copy
import json
import random
import sys

import dictdiffer

KEYS = [
    "states", "sensorValue", "sensorValue.ui", "onOffState", "hvacOperationMode.ui", "name",
    "globalProps", "com.indigodomo.indigoserver", "ledStates", "0", "1", "a b", "ümlaut", "a.b.c",
    ".", "..", "x", "y", "z", "temperatures", "pluginProps", "schedule",
]
SCALARS = [
    None, True, False, 0, 1, -1, 57, 58, 100, 0.5, 20.5, 1.0, 1e300, 2**53, 2**62, "", "on", "off",
    "57 lux", "58 lux", "2026-11-21T08:00:00", "a.b", "é", "\U0001f512", "\u0000",
]


def key(rng, odd):
    """A key; rarely the empty one, with which dictdiffer's own paths are ambiguous."""
    if odd and rng.random() < 0.25:
        return ""
    return rng.choice(KEYS)


def value(rng, depth, odd):
    roll = rng.random()
    if depth > 0 and roll < 0.3:
        return {key(rng, odd): value(rng, depth - 1, odd) for _ in range(rng.randrange(5))}
    if depth > 0 and roll < 0.5:
        return [value(rng, depth - 1, odd) for _ in range(rng.randrange(5))]
    return copy.deepcopy(rng.choice(SCALARS))


def containers(tree):
    """Every dict and list in a tree, the tree itself first."""
    found = [tree]
    for container in found:
        children = container.values() if isinstance(container, dict) else container
        found.extend(child for child in children if isinstance(child, (dict, list)))
    return found


def mutate(rng, tree, odd):
    """Changes one thing somewhere."""
    place = rng.choice(containers(tree))
    if isinstance(place, dict):
        kinds = ["add"] + (["remove", "change", "change", "change"] if place else [])
        kind = rng.choice(kinds)
        if kind == "add":
            place[key(rng, odd)] = value(rng, 2, odd)
        elif kind == "remove":
            del place[rng.choice(list(place))]
        else:
            place[rng.choice(list(place))] = value(rng, 2, odd)
    else:
        kinds = ["append", "insert"] + (["pop", "cut", "change", "shuffle"] if place else [])
        kind = rng.choice(kinds)
        if kind == "append":
            place.extend(value(rng, 1, odd) for _ in range(rng.randrange(1, 4)))
        elif kind == "insert":
            place.insert(0, value(rng, 1, odd))
        elif kind == "pop":
            place.pop(rng.randrange(len(place)))
        elif kind == "cut":
            del place[rng.randrange(len(place)):]
        elif kind == "change":
            place[rng.randrange(len(place))] = value(rng, 2, odd)
        else:
            rng.shuffle(place)


def case(rng):
    odd = rng.random() < 0.2
    old = {key(rng, odd): value(rng, 4, odd) for _ in range(rng.randrange(1, 8))}
    old["id"] = rng.randrange(10**9)
    new = copy.deepcopy(old)
    for _ in range(rng.randrange(1, 6)):
        mutate(rng, new, odd)
    new["id"] = old["id"]
    # As the wire has it: tuples become lists, and what JSON cannot say is not said.
    patch = json.loads(json.dumps(list(dictdiffer.diff(old, new))))
    try:
        # Of a copy: it puts the patch's own values into the result and goes on changing them.
        exact = dictdiffer.patch(copy.deepcopy(patch), old) == new
    except (KeyError, IndexError, TypeError, ValueError):
        exact = False
    return {"old": old, "new": new, "patch": patch, "exact": exact}


def main():
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    for _ in range(count):
        print(json.dumps(case(rng), sort_keys=True))


if __name__ == "__main__":
    main()
