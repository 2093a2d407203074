#!/usr/bin/env bash
# Install bubblewrap, in which model-written code is judged, if it is missing and this user may. Never fails: the harness says what is missing.
command -v bwrap >/dev/null && exit 0
sudo=
[ "$(id -u)" = 0 ] || sudo="sudo -n"
if command -v apt-get >/dev/null; then
  { $sudo apt-get install -y -qq bubblewrap || { $sudo apt-get update -qq && $sudo apt-get install -y -qq bubblewrap; }; } >/dev/null 2>&1
fi
command -v bwrap >/dev/null || echo "bubblewrap is missing; what judges model-written code is not tested" >&2
exit 0
