"""Home Assistant's own rules for discovery, applied to what the agent publishes.

usage: check.py FILE    (a line of JSON a message: {"topic": ..., "payload": {...}}, events among them)

Needs the packages homeassistant and paho-mqtt<2. Ends with 1 and names what Home Assistant would refuse.
"""

import importlib
import json
import sys

import jinja2.sandbox
import voluptuous
from homeassistant.components.mqtt.discovery import TOPIC_MATCHER

messages = [json.loads(line) for line in open(sys.argv[1])]
configurations = [m for m in messages if m["topic"].endswith("/config")]
events = [m["payload"] for m in messages if m["topic"].endswith("/event")]
assert configurations and events, "there is nothing to check"

jinja = jinja2.sandbox.ImmutableSandboxedEnvironment()
seen = set()
checked = 0
for message in configurations:
    prefix, _, rest = message["topic"].partition("/")
    match = TOPIC_MATCHER.fullmatch(rest)
    assert match, f"{message['topic']} is no discovery topic"
    component = match["component"]
    schema = importlib.import_module(f"homeassistant.components.mqtt.{component}").DISCOVERY_SCHEMA
    try:
        entity = schema(message["payload"])
    except voluptuous.Invalid as e:
        sys.exit(f"{message['topic']}: {e}")
    # Unknown keys are dropped without a word.
    dropped = set(message["payload"]) - set(entity)
    assert not dropped, f"{message['topic']}: Home Assistant does not know {dropped}"
    assert entity["unique_id"] not in seen, f"{entity['unique_id']} is used twice"
    seen.add(entity["unique_id"])
    if component == "sensor":
        template = jinja.from_string(message["payload"]["value_template"])
        state = "unknown"
        for event in events:
            state = template.render(value_json=event, this={"state": state})
        answers = [e["answer"] for e in events if e["watch"] == message["payload"]["name"]]
        assert state == (answers[-1] if answers else "unknown"), f"the state is {state!r}"
    if component == "button":
        watch = json.loads(message["payload"]["payload_press"])["args"]["watch"]
        assert message["payload"]["name"].startswith(watch), f"the button is of {watch}"
    checked += 1
print(f"{checked} entities: Home Assistant accepts every one")
