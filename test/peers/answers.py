"""Checks answers against an OpenAPI document, with a validator that is not ours.

Reads {"document": ..., "answers": [{"path", "method", "status", "type", "value"}, ...]} and
prints a line for each answer that the document does not describe, names that it does not know included.
"""
import json
import sys

from jsonschema import Draft202012Validator, RefResolver


def closed(schema):
    """The schema, with no names allowed but those that it tells of."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    same = {name: closed(inner) for name, inner in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        same.setdefault("additionalProperties", False)
    return same


given = json.load(sys.stdin)
document = closed(given["document"])
resolver = RefResolver.from_schema(document)
for schema in document["components"]["schemas"].values():
    Draft202012Validator.check_schema(schema)
for answer in given["answers"]:
    operation = document["paths"][answer["path"]][answer["method"]]
    responses = operation["responses"]
    response = responses.get(str(answer["status"]), responses["default"])
    if "$ref" in response:
        response = resolver.resolve(response["$ref"])[1]
    where = f"{answer['method']} {answer['path']} {answer['status']}"
    if "content" not in response:
        if answer["value"] is not None:
            print(f"{where}: there is an answer")
        continue
    if answer["type"] not in response["content"]:
        print(f"{where}: {answer['type']}")
        continue
    schema = response["content"][answer["type"]]["schema"]
    for error in Draft202012Validator(schema, resolver=resolver).iter_errors(answer["value"]):
        print(f"{where}: {error.json_path}: {error.message}")
