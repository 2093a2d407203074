#!/usr/bin/env bash
# Install Debian's espeak-ng, which speaks in the tests of transcription, if it is not there and this user may.
command -v espeak-ng >/dev/null && exit 0
sudo=
[ "$(id -u)" = 0 ] || sudo="sudo -n"
{ $sudo apt-get install -y -qq espeak-ng || { $sudo apt-get update -qq && $sudo apt-get install -y -qq espeak-ng; }; } >/dev/null 2>&1
command -v espeak-ng >/dev/null || { echo "espeak-ng is missing; the tests that need speech are skipped" >&2; exit 1; }
