#!/usr/bin/env bash
# Set up what `make paper` and `make test` need, or leave what is already there:
# .venv from envs/requirements.lock and envs/files.lock, and Debian packages if something is missing.
# All packages but torch, and those of files, are compared with envs/hashes.lock as they arrive.
# TORCH (make's variable, pip's arguments) chooses another build of torch. With the
# argument `python` the Debian packages are left out of it, with `debian` .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

missing_tools() {
    # What is really needed is probed: a half-installed TeX is common.
    if ! command -v latexmk > /dev/null; then echo latexmk
    else
        local file
        for file in siunitx.sty cleveref.sty microtype.sty lmodern.sty; do
            kpsewhich "$file" > /dev/null || echo "TeX's $file"
        done
    fi
    command -v pdftotext > /dev/null || echo pdftotext
    command -v c++ > /dev/null || echo "a C++ compiler"
    python3 -c 'import ensurepip' 2> /dev/null || echo "python3 -m venv"
}

install_debian() {
    local missing packages
    missing=$(missing_tools | paste -sd, | sed 's/,/, /g')
    [ -z "$missing" ] && return
    packages=$(grep -v '^#' envs/apt.txt | paste -sd' ')
    if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
        echo "set-up: missing $missing. Install with: apt-get install $packages" >&2
        exit 1
    fi
    echo "set-up: installing Debian packages, since this is missing: $missing"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages > .setup-apt.log 2>&1 ||
        { tail -n 20 .setup-apt.log >&2; exit 1; }
    rm -f .setup-apt.log
}

# Whether .venv was made elsewhere, or by a Python that is no longer behind it. Its programs
# name the folder that they were made in, and would run the code of that.
is_another_place() {
    local cfg=.venv/pyvenv.cfg made version
    [ -f $cfg ] || return 1
    made=$(sed -n 's/^command = .* -m venv //p' $cfg)
    version=$(sed -n 's/^version = //p' $cfg)
    [ -n "$made" ] && [ "$made" != "$(pwd -P)/.venv" ] ||
        [ "$version" != "$(.venv/bin/python -c 'import platform; print(platform.python_version())' 2> /dev/null)" ]
}

install_python() {
    local torch stamp
    # What was chosen once stays chosen: make paper TORCH=... and then make test.
    torch=${TORCH:-$(cat .venv/.torch 2> /dev/null || true)}
    if is_another_place; then
        echo "set-up: .venv was made in another folder or by another Python; making it again"
        rm -rf .venv
    fi
    stamp=$(cat envs/requirements.lock envs/hashes.lock envs/files.lock pyproject.toml <(echo "$torch") | sha256sum | cut -d' ' -f1)
    [ "$(cat .venv/.ready 2> /dev/null)" = "$stamp" ] && return
    python3 -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' ||
        { echo "set-up: Python 3.11 or newer is needed, found $(python3 --version)" >&2; exit 1; }
    echo "set-up: installing Python packages into .venv"
    [ -x .venv/bin/python ] || python3 -m venv .venv
    rm -f .venv/.ready
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r envs/hashes.lock
    if [ -n "$torch" ]; then
        # shellcheck disable=SC2086
        .venv/bin/pip install --quiet --disable-pip-version-check $torch
        grep -v '^torch==' envs/requirements.lock > .venv/requirements.txt
    else
        cp envs/requirements.lock .venv/requirements.txt
    fi
    .venv/bin/pip install --quiet --disable-pip-version-check -r .venv/requirements.txt
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps -r envs/files.lock
    .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    echo "$torch" > .venv/.torch
    echo "$stamp" > .venv/.ready
}

[ "${1:-}" = python ] || install_debian
[ "${1:-}" = debian ] || install_python
