#!/usr/bin/env bash
# Copies the pinned browser builds of GraphiQL and React into dist/, compressed, where console.go
# embeds them. The result is the same on every machine, so a check can compare it.
set -euo pipefail
cd "$(dirname "$0")"
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
mkdir -p dist
pack() { gzip -9nc "$1" >"dist/$2.gz"; }
pack node_modules/react/umd/react.production.min.js react.js
pack node_modules/react-dom/umd/react-dom.production.min.js react-dom.js
pack node_modules/graphiql/graphiql.min.js graphiql.js
pack node_modules/graphiql/graphiql.min.css graphiql.css
cat node_modules/{react,react-dom,graphiql}/LICENSE | gzip -9nc >dist/licenses.txt.gz
ls -l dist
