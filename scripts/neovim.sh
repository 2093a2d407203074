#!/usr/bin/env bash
# Install Debian's Neovim, which a test of the language server drives, if it is not there and this user may.
command -v nvim >/dev/null && exit 0
sudo=
[ "$(id -u)" = 0 ] || sudo="sudo -n"
{ $sudo apt-get install -y -qq neovim || { $sudo apt-get update -qq && $sudo apt-get install -y -qq neovim; }; } >/dev/null 2>&1
command -v nvim >/dev/null || { echo "Neovim is missing; its test is skipped" >&2; exit 1; }
