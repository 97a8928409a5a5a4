#!/bin/sh
# From a fresh clone to a running mapo, on Linux and macOS: finds a Python, trainer/installer/bootstrap.py does the rest.
set -eu

script=$0
while [ -L "$script" ]; do
    link=$(readlink "$script")
    case $link in
        /*) script=$link ;;
        *) script=$(dirname -- "$script")/$link ;;
    esac
done
here=$(CDPATH='' cd -- "$(dirname -- "$script")" && pwd -P)

# The environment's own Python comes first: it is the version that was installed for, and no version manager's
# stand-in (those take a fifth of a second). A name on PATH is not proof, so each one is asked.
fits='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))'
for python in "$here/.venv/bin/python" python3 python3.13 python3.12 python3.11 python3.10; do
    if "$python" -I -S -c "$fits" >/dev/null 2>&1; then
        # -I: the folder of bootstrap.py must not be searched for modules, its neighbours' names are their own.
        exec "$python" -I "$here/trainer/installer/bootstrap.py" "$@"
    fi
done

echo "mapo needs Python 3.10, 3.11, 3.12 or 3.13, and none is on PATH." >&2
echo "Install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.12;" >&2
echo "others: https://www.python.org/downloads/), then start this again." >&2
exit 1
