#!/usr/bin/env bash
# Headless Chromium for the tests of report.html, about 100 MB; or one line why not.
set -euo pipefail
for program in chromium-headless-shell chromium chromium-browser google-chrome; do
    command -v "$program" > /dev/null && exit
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "browser tests will be skipped: no Chromium; install: chromium-headless-shell"
    exit
fi
echo "installing Chromium for the tests"
apt-get update -qq
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends chromium-headless-shell > /dev/null 2>&1 ||
    apt-get install -y -qq --no-install-recommends chromium > /dev/null
