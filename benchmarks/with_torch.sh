#!/usr/bin/env bash
# Run Python with the arguments given: the machine's own ($PYTHON) where that has torch, as GPU machines come with it,
# else that of $VENV, built when it is missing. What the machine's own lacks is taken from .wheels (make wheels).
set -euo pipefail
python=${PYTHON:-python3}
venv=${VENV:-.venv}
if ! "$python" -c 'import torch' 2>/dev/null; then
    make --no-print-directory "$venv/.installed" PYTHON="$python" >&2   # what is asked for is read from the other
    python=$venv/bin/python
fi
if ! "$python" -c 'import pydantic' 2>/dev/null; then
    shopt -s nullglob
    for wheel in .wheels/*.whl; do
        "$python" -m zipfile -e "$wheel" .wheels/site
    done
    export PYTHONPATH=$PWD/.wheels/site${PYTHONPATH:+:$PYTHONPATH}
    if ! "$python" -c 'import pydantic' 2>/dev/null; then
        echo "error: $python has no pydantic; where there is a network: make wheels, and bring .wheels here" >&2
        exit 2
    fi
fi
exec "$python" "$@"
