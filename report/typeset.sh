#!/usr/bin/env bash
# Typeset the paper: FOLDER has figures/, tables/ and numbers.tex; typeset/paper.pdf there.
# No shell escape, and a fixed date, so that the same input gives the same bytes.
set -euo pipefail
folder=$(realpath "${1:?FOLDER}")
cd -P "$(dirname "$0")/.."
folder=${folder#"$PWD"/} # so that what TeX says names no home
export SOURCE_DATE_EPOCH=0 FORCE_SOURCE_DATE=1
export BIBINPUTS=report: TEXINPUTS=report:$folder:
rm -rf "$folder/typeset" # what a killed one left may stop TeX
latexmk -g -pdf -no-shell-escape -interaction=nonstopmode -halt-on-error -file-line-error \
    -outdir="$folder/typeset" report/paper.tex 2>&1 |
    while IFS= read -r line; do printf '%s\n' "${line//"$PWD"/.}"; done || {
    # The first error with its place is the last line.
    grep -m1 -A2 -E '^[^ ]+:[0-9]+:' "$folder/typeset/paper.log" | paste -sd' '
    exit 1
}
rm -f "$folder/typeset/paper.fls" # lists what was read, by full paths
