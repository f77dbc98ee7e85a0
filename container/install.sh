#!/bin/sh
# The locked environment, as both recipes make it: install.sh SOURCE ENVIRONMENT [EXTRA ...]
#   SOURCE       a checkout, or a folder with its pyproject.toml, uv.lock and README.md
#   ENVIRONMENT  where the virtual environment goes
# Needs Python 3.12 with pip, and network for PyPI. Versions are those of uv.lock, hashes checked; the project itself is
# not installed: it runs from its checkout, whose config/ it reads.
set -eu

source=$1
environment=$2
shift 2
extras=""
for extra in "$@"; do
    extras="$extras --extra $extra"
done

python3 -m venv "$environment"
"$environment/bin/python" -m pip install --quiet "uv==$(cat "$source/container/uv-version")"
# --inexact: uv has just been put there and stays, so that the image can tell what it was made with.
# Compiled now: an image is read-only, and importing everything takes 2 s instead of 6.
# shellcheck disable=SC2086 # the extras are words of their own
UV_PROJECT_ENVIRONMENT="$environment" UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 "$environment/bin/uv" sync \
    --project "$source" --locked --inexact --no-dev --no-install-project --python "$environment/bin/python" $extras

# The environment as it is, and that it works: another version of a package would stop here.
cd "$source"
PYTHONPATH="$source" "$environment/bin/python" -m dfp ops doctor --only versions
