"""What is said about scenes: captions, prompts, questions and their answers, in short English and JSON."""

import json

from world import COLOR_NAMES, NAMES, PATTERNS, PLURALS, first_and_second

COUNTS = ["zero", "one", "two", "three", "four"]
WHERE = [
    ["at the top left", "at the top", "at the top right"],
    ["at the left", "in the middle", "at the right"],
    ["at the bottom left", "at the bottom", "at the bottom right"],
]
OPPOSITE = {
    "left of": "right of", "right of": "left of", "above": "below", "below": "above",
    "on": "under", "under": "on", "behind": "in front of", "in front of": "behind",
}  # fmt: skip


def article(word):
    """By its sound: an hourglass, a unicorn."""
    vowel = word == "hourglass" or word[0] in "aeiou" and word not in ("ufo", "unicorn")
    return ("an " if vowel else "a ") + word


def number(count, name):
    """a cat, two cats"""
    return article(name) if count == 1 else f"{COUNTS[count]} {PLURALS[name]}"


def listing(parts):
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def counted(scene):
    """Names with their numbers, in the order in which their first ones stand from left to right."""
    counts = {}
    for thing in scene.left_to_right():
        counts[thing.name] = counts.get(thing.name, 0) + 1
    return counts


def what(scene):
    if not scene.things:
        return "nothing"
    return listing([number(count, name) for name, count in counted(scene).items()])


def ground(scene):
    pattern = "" if scene.pattern == "plain" else scene.pattern + " "
    return f"{article(scene.color)} {pattern}background"


def related_pair(scene):
    a, b = first_and_second(scene)
    return f"{article(a.name)} {scene.relation} {article(b.name)}"


def where(thing):
    """One of nine places, or None close to a border between two of them (a ninth of a third on each side)."""
    places = []
    for value in (thing.y, thing.x):
        if min(abs(value - 112 / 3), abs(value - 224 / 3)) < 4:
            return None
        places.append(int(value * 3 / 112))
    return WHERE[places[0]][places[1]]


def caption(rng, scene):
    """What a person might ask to have drawn, or say of it."""
    if scene.relation and rng.random() < 0.75:
        return f"{related_pair(scene)} on {ground(scene)}"
    if len(scene.things) == 1:
        thing = scene.things[0]
        size, place = thing.size(), where(thing)
        words = article(f"{size} {thing.name}" if size and rng.random() < 0.3 else thing.name)
        if place and rng.random() < 0.3:
            return f"{words} {place} on {ground(scene)}"
        return f"{words} on {ground(scene)}"
    if not scene.things:
        return ground(scene)
    return f"{what(scene)} on {ground(scene)}"


def plain_caption(scene):
    """The caption without size, place or relation."""
    return f"{what(scene)} on {ground(scene)}" if scene.things else ground(scene)


def unique(scene):
    names = [thing.name for thing in scene.things]
    return [thing for thing in scene.things if names.count(thing.name) == 1]


def far_apart(values):
    """The index of the least value where it is least by a clear margin."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    return order[0] if len(order) > 1 and values[order[1]] - values[order[0]] > 8 else None


def absent(rng, scene):
    present = {thing.name for thing in scene.things}
    while (name := NAMES[rng.integers(len(NAMES))]) in present:
        pass
    return name


def ask_what(rng, scene):
    return "what is in the picture?", what(scene)


def ask_count(rng, scene):
    return "how many objects are there?", COUNTS[len(scene.things)]


def ask_count_of(rng, scene):
    if scene.things and rng.random() < 0.7:
        name = scene.things[rng.integers(len(scene.things))].name
    else:
        name = absent(rng, scene)
    return f"how many {PLURALS[name]} are there?", COUNTS[sum(t.name == name for t in scene.things)]


def ask_is_there(rng, scene):
    if scene.things and rng.random() < 0.5:
        return f"is there {article(scene.things[rng.integers(len(scene.things))].name)}?", "yes"
    return f"is there {article(absent(rng, scene))}?", "no"


def ask_color(rng, scene):
    return "what color is the background?", scene.color


def ask_ground(rng, scene):
    return "what is the background?", ground(scene)


def ask_describe(rng, scene):
    if scene.relation:
        return "describe the picture.", f"{related_pair(scene)} on {ground(scene)}"
    return "describe the picture.", plain_caption(scene)


def ask_where(rng, scene):
    alone = [thing for thing in unique(scene) if where(thing)]
    if not alone:
        return None
    thing = alone[rng.integers(len(alone))]
    return f"where is the {thing.name}?", where(thing)


def ask_size(rng, scene):
    sized = [thing for thing in unique(scene) if thing.size()]
    if not sized:
        return None
    thing = sized[rng.integers(len(sized))]
    return f"is the {thing.name} small or large?", thing.size()


def ask_which(rng, scene):
    words = {
        "on the left": [t.x for t in scene.things],
        "on the right": [-t.x for t in scene.things],
        "at the top": [t.y for t in scene.things],
        "at the bottom": [-t.y for t in scene.things],
        "largest": [-t.longest for t in scene.things],
        "smallest": [t.longest for t in scene.things],
    }
    word = list(words)[rng.integers(len(words))]
    found = far_apart(words[word])
    return None if found is None else (f"which object is {word}?", article(scene.things[found].name))


def ask_relation(rng, scene):
    if not scene.relation:
        return None
    a, b = first_and_second(scene)
    relation = scene.relation
    if rng.random() < 0.5:
        a, b, relation = b, a, OPPOSITE[relation]
    roll = rng.integers(3)
    if roll == 0:
        return f"how does the {a.name} stand to the {b.name}?", relation
    if roll == 1:
        return f"what is {relation} the {b.name}?", article(a.name)
    if rng.random() < 0.5:
        return f"is the {a.name} {relation} the {b.name}?", "yes"
    return f"is the {a.name} {OPPOSITE[relation]} the {b.name}?", "no"


def ask_json(rng, scene):
    """The same truths as JSON. The keys' choice and order vary: a schema forces them, and they lead."""
    objects = [{"name": name, "count": count} for name, count in counted(scene).items()]
    fields = {
        "objects": objects if rng.random() < 0.5 else [o["name"] for o in objects],
        "count": len(scene.things),
        "background": scene.color,
        "color": scene.color,
        "pattern": scene.pattern,
        "empty": not scene.things,
        "description": plain_caption(scene),
    }
    if len(scene.things) == 1:
        thing = scene.things[0]
        fields |= {"object": thing.name, "name": thing.name}
        if thing.size():
            fields["size"] = thing.size()
        if where(thing):
            fields["where"] = where(thing)
    if scene.relation:
        a, b = first_and_second(scene)
        fields |= {"first": a.name, "relation": scene.relation, "second": b.name}
    keys = [str(key) for key in rng.permutation(list(fields))[: rng.integers(1, 4)]]
    question = ["what is in the picture?", "describe the picture.", "what do you see?"][rng.integers(3)]
    if rng.random() < 0.6:
        question += " answer in json."
    return question, json.dumps({key: fields[key] for key in keys}, separators=(",", ":"))


SINGLE = [
    (ask_what, 5), (ask_count, 3), (ask_count_of, 2), (ask_is_there, 2), (ask_color, 1), (ask_ground, 1),
    (ask_describe, 1), (ask_where, 2), (ask_size, 1), (ask_which, 2), (ask_relation, 4), (ask_json, 1.5),
    (ask_relation, 3), (ask_relation, 3),
]  # fmt: skip


def questions(rng, scene, wanted=4):
    """`wanted` questions on one picture, each with its answer."""
    weights = [weight for _, weight in SINGLE]
    total = sum(weights)
    order = rng.choice(len(SINGLE), len(SINGLE), replace=False, p=[w / total for w in weights])
    asked = []
    for i in order:
        if pair := SINGLE[i][0](rng, scene):
            asked.append(pair)
        if len(asked) == wanted:
            break
    return asked


def corpus(rng, scenes):
    """Everything that is said of some scenes, for the tokenizer; every name and plural often enough."""
    for name in NAMES:
        for _ in range(100):
            yield f"{article(name)} on"
            yield f"two {PLURALS[name]} and the {name}"
            yield json.dumps({"name": name, "objects": [name]}, separators=(",", ":"))
    for color in COLOR_NAMES:
        for pattern in PATTERNS:
            yield f"{article(color)} {pattern} background"
    for scene in scenes:
        yield caption(rng, scene)
        for ask in dict.fromkeys(ask for ask, _ in SINGLE):
            if pair := ask(rng, scene):
                yield from pair
