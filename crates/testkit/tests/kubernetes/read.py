"""Reads manifests from standard input, holds each against the schemas of the Kubernetes versions that are named, and prints all of it as JSON.

The schemas are strict: a field that does not exist is a fault. Kinds of others, of which Kubernetes has no schema, are listed.
"""

import functools
import json
import sys
import tomllib

import kubernetes_validate
import yaml
from kubernetes_validate import utils

# Each call would read a megabyte of definitions again.
utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)


class Loader(yaml.SafeLoader):
    """A key that stands twice is a fault, not a choice."""


def mapping(loader, node):
    keys = [loader.construct_object(key) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.YAMLError(f"{key} stands twice{node.start_mark}")
    return loader.construct_mapping(node, deep=True)


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: str(node.value))

objects, faults, foreign = [], [], []
for found in yaml.load_all(sys.stdin, Loader=Loader):
    if found is None:
        continue
    name = f"{found['kind']} {found['metadata']['name']}"
    for version in sys.argv[1:]:
        try:
            kubernetes_validate.validate(found, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            place = ".".join(str(part) for part in error.path)
            faults.append(f"{name}, Kubernetes {version}: {place}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError:
            foreign.append(found["kind"])
    # The configuration as TOML, for whoever has no reader of it.
    for file, text in found.get("data", {}).items():
        if file.endswith(".toml"):
            found["parsed"] = tomllib.loads(text)
    objects.append(found)
print(json.dumps({"objects": objects, "faults": faults, "foreign": sorted(set(foreign))}))
