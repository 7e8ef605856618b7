"""Checks that the types of all public names are known to who imports the installed package: `public_types.py BASEDPYRIGHT`.

A type that a checker has to infer counts as known; one that it cannot know does not.
"""

import json
import subprocess
import sys

import dreamer_jax

command = [sys.argv[1], "--verifytypes", "dreamer_jax", "--ignoreexternal", "--outputjson"]
output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
symbols = {symbol["name"]: symbol for symbol in json.loads(output)["typeCompleteness"]["symbols"]}
public = [symbols.get(f"dreamer_jax.{name}", {"name": name}) for name in dreamer_jax.__all__ if name != "__version__"]
unknown = [symbol for symbol in public if not (symbol.get("isTypeKnown") or symbol.get("isTypeAmbiguous"))]
for symbol in unknown:
    print(symbol["name"], *(problem["message"] for problem in symbol.get("diagnostics", ())), sep="\n  ")
sys.exit(bool(unknown))
