#!/usr/bin/env bash
# Install Debian's Chromium, which drives the playground in tests, if no browser is named or there and this user may.
[ -x "${CHROMIUM:-/usr/bin/chromium}" ] && exit 0
sudo=
[ "$(id -u)" = 0 ] || sudo="sudo -n"
{ $sudo apt-get install -y -qq chromium || { $sudo apt-get update -qq && $sudo apt-get install -y -qq chromium; }; } >/dev/null 2>&1
[ -x "${CHROMIUM:-/usr/bin/chromium}" ] || { echo "chromium is missing; name a browser with CHROMIUM=" >&2; exit 1; }
